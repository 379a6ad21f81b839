"""Existing items by similarity: the embedded default, without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.preprocessing import normalize

from recbole_edt.augment.generators import Generated, Generator, Task, register_generator

# Own items that retrieval skips; a user with more near ones may be offered fewer items.
_MOST_OWNED = 50


@register_generator("retrieval")
class RetrievalGenerator(Generator):
    """Proposes existing items of a domain by embedding similarity.

    A user is offered the items nearest to those they have in the target domain, which is what
    eq. 6 asks of a transferable item; without any, the items nearest to the representatives of
    their other domain. What they have is never offered.
    """

    def __init__(self, settings, space, client=None) -> None:
        super().__init__(settings, space, client)
        self.num = settings.num or 1
        # In float32 the number of threads would show, in the order of near-equal neighbours.
        self.units = normalize(np.asarray(space.vectors, dtype=np.float64))

    def generate(self, tasks: Sequence[Task]) -> Generated:
        """Propose up to ``num`` items for each task, best first."""
        items: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(tasks)
        for target in (0, 1):
            places = [place for place, task in enumerate(tasks) if task.target == target]
            known = [self._known(tasks[place]) for place in places]
            if not known:
                continue
            asked = np.unique(np.concatenate(known))
            near, scores = self._nearest(asked, target, max(map(len, known)))
            for place, lines in zip(places, known, strict=True):
                at = np.searchsorted(asked, lines)
                items[place] = self._best(tasks[place].user, near[at], scores[at])
        return Generated(items)

    def _known(self, task: Task) -> np.ndarray:
        """Items whose neighbours are offered: the user's own of the target domain, if any."""
        histories = self.space.histories
        owned = histories.of(task.user)
        own = owned[histories.item_domain[owned] == task.target]
        return own if len(own) else histories.rows[self.space.chosen(task.user, 1 - task.target)]

    def _nearest(self, asked: np.ndarray, target: int, owned: int) -> tuple[np.ndarray, np.ndarray]:
        """Nearest items of the target domain of each asked item, [asked, n], best first.

        ``owned`` more than wanted are looked for, within reason: they may be the user's own.
        """
        pool = np.flatnonzero(self.space.histories.item_domain == target)
        n = min(self.num + min(owned, _MOST_OWNED), len(pool))
        near, scores = [], []
        for start in range(0, len(asked), 1024):
            block = self.units[asked[start : start + 1024]] @ self.units[pool].T
            block = np.round(block, 5)  # the last bits of a product depend on the machine
            top = np.argpartition(-block, n - 1, axis=1)[:, :n]
            least = np.take_along_axis(block, top, 1).min(axis=1, keepdims=True)
            for row, floor in zip(block, least, strict=True):
                over = np.flatnonzero(row >= floor)  # ties at the end: the first lines stay
                best = over[np.argsort(-row[over], kind="stable")[:n]]
                near.append(pool[best])
                scores.append(row[best])
        return np.array(near), np.array(scores)

    def _best(self, user: int, near: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The first ``num`` distinct neighbours that the user lacks."""
        flat, score = near.reshape(-1), scores.reshape(-1)
        ranked = flat[np.lexsort((flat, -score))]
        ranked = ranked[~np.isin(ranked, self.space.histories.of(user))]
        first = np.sort(np.unique(ranked, return_index=True)[1])
        return ranked[first[: self.num]]
