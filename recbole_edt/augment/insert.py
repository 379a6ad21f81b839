"""Stage *insert* (eq. 1): which users are balanced, and where items go."""

from __future__ import annotations

import math
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
        of_all = counts.sum(0) if settings.directions == "scarce" else np.zeros(2)
        wanted &= (counts < counts[:, ::-1]) | (of_all < of_all[::-1])
    return [Task(int(user), int(target)) for user, target in np.argwhere(wanted)]


class Insertions(NamedTuple):
    """Rows to insert: the n-th one puts ``items[n]`` after training row ``anchors[n]``."""

    anchors: np.ndarray  # int64 [n]; ascending, equal ones in the order in which they follow
    items: np.ndarray


def insert(
    histories: Histories,
    matches: Sequence[Matches],
    kept: Sequence[np.ndarray],
    settings: AugmentSettings,
) -> Insertions:
    """Place the first kept items of each task in its user's sequence (eq. 1).

    Their number is ``ceil(inject_ratio * kept)``; for ``directions: minor`` it is
    ``ceil(inject_ratio * r * kept)``, at most ``|nA - nB|``, so that the balance is never tipped.
    """
    counts = histories.domain_counts()
    anchors, items = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for one, places in zip(matches, kept, strict=True):
        user, target = one.task
        share, most = settings.inject_ratio, len(places)
        if settings.directions == "minor":
            most = int(abs(counts[user, 0] - counts[user, 1]))
            share *= most / max(counts[user].sum(), 1)
        n = math.ceil(round(share * len(places), 9))  # the last bits do not count
        places = places[: min(n, most)]
        first, stop = histories.offsets[user : user + 2]
        if settings.insert == "anchor":
            after = one.anchors[places]
        elif settings.insert == "end":
            after = np.full(len(places), stop - 1)
        else:
            draw = np.random.default_rng([settings.seed, user, target])
            after = draw.integers(first, stop, len(places))
        anchors.append(after)
        items.append(one.items[places])
    anchor = np.concatenate(anchors)
    order = np.argsort(anchor, kind="stable")
    return Insertions(anchor[order], np.concatenate(items)[order])
