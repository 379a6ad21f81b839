"""Stage *filter*: which generated items are transferable (eqs. 5, 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.preprocessing import normalize

from recbole_edt.augment.clusters import ItemSpace
from recbole_edt.augment.generators import Task
from recbole_edt.augment.settings import AugmentSettings

# Similarities are rounded to these, so that equal vectors tie and tau is met exactly: the last
# bits of a matrix product depend on the machine and on the place in the matrix.
_DECIMALS = 9


def best_matches(
    generated: np.ndarray, representatives: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find each generated item's most similar representative of a domain (eq. 5).

    Returns
    -------
    index : np.ndarray
        int64 [n]; row of the most similar representative, the first of equals.
    score : np.ndarray
        float64 [n]; its cosine similarity. A zero vector is similar to nothing (0).
    """
    if not len(generated):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    units, others = (normalize(np.asarray(v, np.float64)) for v in (generated, representatives))
    cosine = np.round(units @ others.T, _DECIMALS)  # [n, m]
    index = cosine.argmax(axis=1)
    return index, cosine[np.arange(len(cosine)), index]


class Matches(NamedTuple):
    """Proposed items of a task, and how each resembles the user's representatives (eq. 5)."""

    task: Task
    items: np.ndarray  # int64 [n]; item lines
    anchors: np.ndarray  # int64 [n]; training row of the most similar source item
    # float64 [n]; best similarity to the source and to the target domain's representatives
    source: np.ndarray
    target: np.ndarray


def match(task: Task, items: np.ndarray, space: ItemSpace) -> Matches:
    """Compare a task's proposals with the user's representatives of both domains (eq. 5)."""
    sources, proposed = space.chosen(task.user, 1 - task.target), space.vectors[items]
    index, source = best_matches(proposed, space.vectors[space.histories.rows[sources]])
    _, target = best_matches(proposed, space.vectors[space.representatives(*task)])
    return Matches(task, items, sources[index], source, target)


def transferable(source: np.ndarray, target: np.ndarray, k: int, tau: float) -> np.ndarray:
    """Choose a user's transferable items among those generated in one direction (eq. 6).

    The threshold comes first and the ranking second: of the items whose target similarity is at
    least tau, the k most similar to the source representatives stay. Eq. 6 can also be read as
    ranking all items first; then an item that fails tau would take a place from one that passes.

    Returns
    -------
    np.ndarray
        int64 [<= k]; places of the items of T_A2B (or T_B2A), the most similar to the source
        first, of equals the earlier one.
    """
    passing = np.flatnonzero(target >= tau)
    return passing[np.argsort(-source[passing], kind="stable")[:k]]


def filter_items(matches: Sequence[Matches], settings: AugmentSettings) -> list[np.ndarray]:
    """Per task the places of the proposals that stay; all of them for ``filter: none``.

    ``tau_quantile`` is of the target similarities of all users, so that one tau holds for all: 0
    keeps all, 1 only the best.
    """
    if settings.filter == "none":
        return [np.arange(len(one.source)) for one in matches]
    tau = settings.tau
    if tau is None:
        scores = np.concatenate([np.zeros(0), *(one.target for one in matches)])
        quantile = settings.tau_quantile or 0.0
        tau = float(np.quantile(scores, quantile, method="higher")) if len(scores) else 0.0
    return [transferable(one.source, one.target, settings.k, tau) for one in matches]
