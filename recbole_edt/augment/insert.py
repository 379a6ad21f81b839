"""Stages *filter* and *insert* (eqs. 1, 5, 6): from proposals to rows of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_edt.augment.clusters import Clusters, Representatives
from recbole_edt.augment.generate import Task
from recbole_edt.augment.histories import Histories
from recbole_edt.augment.noise_filter import best_matches, keep_transferable, similarity_threshold


@dataclass(frozen=True)
class Balance:
    """Whom to balance, and how much (the imbalance r of the paper's section 1).

    Attributes
    ----------
    min_ratio : float
        Least r = |nA - nB| / (nA + nB) of the training rows of a user who is augmented.
    inject_ratio : float
        Share, from 0 to 1, of the filtered items that are inserted (tables 3, 4).
    directions : {"both", "minor", "scarce"}
        A2B and B2A (3.2.1), or items of the domain alone that the user has less of. ``scarce``:
        besides these, items of the domain that all users together have less of, for everybody.
    min_history : int
        Least training rows that a user has in a domain he gets items of.
    """

    min_ratio: float
    inject_ratio: float
    directions: str
    min_history: int


def balancing_tasks(counts: np.ndarray, balance: Balance) -> list[Task]:
    """List the users to balance, each with a domain to insert items of; A before B.

    An item follows one of the other domain (eq. 5), so a user needs a row there.

    Parameters
    ----------
    counts : np.ndarray
        int64 [n_users, 2]; training rows per domain.
    balance : Balance
        Who is augmented.
    """
    total = counts.sum(1)
    ratio = np.abs(counts[:, 0] - counts[:, 1]) / np.maximum(total, 1)
    wanted = (ratio >= balance.min_ratio)[:, None] & (counts >= balance.min_history)
    wanted &= counts[:, ::-1] > 0
    if balance.directions != "both":
        lacking = counts < counts[:, ::-1]
        if balance.directions == "scarce":
            of_all = counts.sum(0)
            lacking |= of_all < of_all[::-1]
        wanted &= lacking
    return [Task(int(user), int(target)) for user, target in np.argwhere(wanted)]


@dataclass(frozen=True)
class Matches:
    """How each proposed item of a task resembles the user's representatives (eq. 5).

    Attributes
    ----------
    anchors : np.ndarray
        int64 [n]; training row of the most similar source item.
    source, target : np.ndarray
        float64 [n]; best similarity to the source and to the target domain's representatives.
    """

    anchors: np.ndarray
    source: np.ndarray
    target: np.ndarray


def match(
    task: Task,
    items: np.ndarray,
    vectors: np.ndarray,
    histories: Histories,
    chosen: Representatives,
    clusters: Clusters,
) -> Matches:
    """Compare a task's proposals with the user's representatives of both domains (eq. 5).

    A domain that the user has nothing of is represented by its cluster medoids.
    """
    sources = chosen.of(task.user, 1 - task.target)
    targets = histories.rows[chosen.of(task.user, task.target)]
    if not len(targets):
        targets = clusters.medoids[task.target]
    index, source = best_matches(vectors[items], vectors[histories.rows[sources]])
    _, target = best_matches(vectors[items], vectors[targets])
    return Matches(sources[index], source, target)


@dataclass(frozen=True)
class Insertions:
    """Rows to insert: the n-th one puts ``items[n]`` behind training row ``anchors[n]``.

    Attributes
    ----------
    anchors, items : np.ndarray
        int64 [n]; by anchor, and in the order in which they follow one anchor.
    """

    anchors: np.ndarray
    items: np.ndarray


def filter_items(
    matches: Sequence[Matches], k: int, tau: float | None, quantile: float | None
) -> list[np.ndarray]:
    """Keep each task's transferable items (eq. 6), the most similar to the source first.

    Parameters
    ----------
    matches : sequence of Matches
        Of all tasks: a quantile is one threshold for all of them.
    k, tau, quantile
        As in :func:`~recbole_edt.augment.noise_filter.keep_transferable`.

    Returns
    -------
    list of np.ndarray
        Per task the places of the items that stay.
    """
    scores = [one.target for one in matches]
    threshold = similarity_threshold(np.concatenate([*scores, np.zeros(0)]), tau, quantile)
    kept = [
        np.flatnonzero(keep_transferable(one.source, one.target, k, threshold)) for one in matches
    ]
    return [
        places[np.argsort(-one.source[places], kind="stable")]
        for one, places in zip(matches, kept, strict=True)
    ]


def amounts(counts: np.ndarray, tasks: Sequence[Task], kept: Sequence[int], balance: Balance):
    """How many of the kept items each task inserts.

    The share ``inject_ratio`` of them (n + 2k in eq. 9). In the minor direction alone the share
    also grows with r, and never tips the balance.

    Parameters
    ----------
    counts : np.ndarray
        int64 [n_users, 2]; training rows per domain.
    tasks : sequence of Task
        Whom to balance.
    kept : sequence of int
        Items that the filter left of each.
    balance : Balance
        How much.

    Returns
    -------
    np.ndarray
        int64 [tasks]; ``ceil(inject_ratio * kept)``, or for ``directions="minor"``
        ``ceil(inject_ratio * r * kept)``, at most ``|nA - nB|``.
    """
    wanted = balance.inject_ratio * np.asarray(kept, dtype=np.float64)
    if balance.directions != "minor":
        return _whole(wanted)
    mine = counts[[task.user for task in tasks]].reshape(-1, 2)
    gap = np.abs(mine[:, 0] - mine[:, 1])
    return np.minimum(_whole(wanted * gap / np.maximum(mine.sum(1), 1)), gap)


def _whole(amount: np.ndarray) -> np.ndarray:
    """Round up, but not for the last bits of a product."""
    return np.ceil(np.round(amount, 9)).astype(np.int64)


def insert(
    histories: Histories,
    tasks: Sequence[Task],
    proposals: Sequence[np.ndarray],
    matches: Sequence[Matches],
    kept: Sequence[np.ndarray],
    counts: np.ndarray,
    where: str,
    seed: int = 2026,
) -> Insertions:
    """Place the first ``counts[n]`` kept items of each task in its user's sequence (eq. 1).

    Parameters
    ----------
    where : {"anchor", "end", "random"}
        Right behind the most similar source item (the paper), behind the last training row, or
        behind a training row drawn by ``seed`` and user.
    """
    anchors, items = [], []
    for task, proposed, one, places, count in zip(
        tasks, proposals, matches, kept, counts, strict=True
    ):
        places = places[:count]
        first, stop = histories.offsets[task.user], histories.offsets[task.user + 1]
        if where == "anchor":
            behind = one.anchors[places]
        elif where == "end":
            behind = np.full(len(places), stop - 1)
        else:
            drawn = np.random.default_rng([seed, task.user, task.target])
            behind = drawn.integers(first, stop, len(places))
        anchors.append(behind)
        items.append(proposed[places])
    if not anchors:
        return Insertions(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    anchor, item = np.concatenate(anchors), np.concatenate(items)
    order = np.argsort(anchor, kind="stable")
    return Insertions(anchor[order].astype(np.int64), item[order].astype(np.int64))
