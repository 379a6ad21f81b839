"""Stage *insert* (eq. 1): which users are balanced, by how much, and where items go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recbole_edt.augment.filter import Matches
from recbole_edt.augment.generators import Task
from recbole_edt.augment.histories import Histories
from recbole_edt.augment.settings import AugmentSettings


def balancing_tasks(counts: np.ndarray, settings: AugmentSettings) -> list[Task]:
    """List the users to balance, each with a domain to insert items of; A before B.

    An item follows one of the other domain (eq. 5), so a user needs a row there.
    """
    gap, total = np.abs(counts[:, 0] - counts[:, 1]), counts.sum(1)
    ratio = gap / np.maximum(total, 1)  # r = |nA - nB| / (nA + nB)
    wanted = (ratio >= settings.min_ratio)[:, None] & (counts >= settings.min_history)
    wanted &= counts[:, ::-1] > 0
    if settings.directions != "both":
        lacking = counts < counts[:, ::-1]
        if settings.directions == "scarce":
            of_all = counts.sum(0)
            lacking |= of_all < of_all[::-1]
        wanted &= lacking
    return [Task(int(user), int(target)) for user, target in np.argwhere(wanted)]


def amounts(
    counts: np.ndarray, tasks: Sequence[Task], kept: Sequence[int], settings: AugmentSettings
) -> np.ndarray:
    """How many of the kept items each task inserts (n + 2k in eq. 9).

    Returns
    -------
    np.ndarray
        int64 [tasks]; ``ceil(inject_ratio * kept)``. For ``directions: minor``
        ``ceil(inject_ratio * r * kept)``, at most ``|nA - nB|``: the balance is never tipped.
    """
    wanted = settings.inject_ratio * np.asarray(kept, dtype=np.float64)
    most = np.inf
    if settings.directions == "minor":
        mine = counts[[task.user for task in tasks]].reshape(-1, 2)
        most = np.abs(mine[:, 0] - mine[:, 1])
        wanted = wanted * most / np.maximum(mine.sum(1), 1)
    whole = np.ceil(np.round(wanted, 9))  # the last bits of a product do not count
    return np.minimum(whole, most).astype(np.int64)


class Insertions(NamedTuple):
    """Rows to insert: the n-th one puts ``items[n]`` after training row ``anchors[n]``."""

    anchors: np.ndarray  # int64 [n]; ascending, equal ones in the order in which they follow
    items: np.ndarray


def insert(
    histories: Histories,
    tasks: Sequence[Task],
    proposed: Sequence[np.ndarray],
    matches: Sequence[Matches],
    kept: Sequence[np.ndarray],
    settings: AugmentSettings,
) -> Insertions:
    """Place kept items in their users' sequences (eq. 1)."""
    counts = amounts(histories.domain_counts(), tasks, [len(one) for one in kept], settings)
    anchors, items = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for task, lines, matched, places, n in zip(tasks, proposed, matches, kept, counts, strict=True):
        places = places[:n]
        first, stop = histories.offsets[task.user], histories.offsets[task.user + 1]
        if settings.insert == "anchor":
            after = matched.anchors[places]
        elif settings.insert == "end":
            after = np.full(len(places), stop - 1)
        else:
            draw = np.random.default_rng([settings.seed, task.user, task.target])
            after = draw.integers(first, stop, len(places))
        anchors.append(after)
        items.append(lines[places])
    anchor = np.concatenate(anchors)
    order = np.argsort(anchor, kind="stable")
    return Insertions(anchor[order], np.concatenate(items)[order])
