"""Profiles extracted from the items themselves: the embedded default, without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from sklearn.preprocessing import normalize

from recbole_edt.augment.profilers import SAMPLES, Profiler, Profiles, UserGroups, register_profiler


@register_profiler("extractive")
class ExtractiveProfiler(Profiler):
    """Fills in a template.

    ``sra`` says for each domain how much of the whole it is and, for each of its clusters, the most
    central items and the commonest brand and category. Both domains may name as many items as the
    one with more clusters has clusters, so that the minor one gets as much room as the major one.
    ``naive`` lists items of both domains.
    """

    def __init__(self, settings, about, client=None) -> None:
        super().__init__(settings, about, client)
        self.units = normalize(np.asarray(about.vectors, dtype=np.float32))
        items = about.items.reindex(columns=["title", "brand", "categories"], fill_value="")
        self.brands = items["brand"].tolist()
        self.kinds = [path.split(" | ")[-1] for path in items["categories"]]
        self.titles = [
            title or kind for title, kind in zip(items["title"], self.kinds, strict=True)
        ]

    def write(self, users: Sequence[UserGroups]) -> Profiles:
        """Write one profile per user."""
        one = self._sra if self.settings.profile == "sra" else self._naive
        return Profiles([one(user) if any(user.sizes()) else "" for user in users])

    def _sra(self, user: UserGroups) -> str:
        room = max(map(len, user.groups))
        parts = []
        for side, groups in enumerate(user.groups):
            if groups:
                shares = [(room + n) // len(groups) for n in reversed(range(len(groups)))]
                said = "; ".join(map(self._summary, groups, shares))
                parts.append(f"{self.about.domains[side]}, {user.imbalance(side)}: {said}.")
        return " ".join(parts)

    def _summary(self, group: np.ndarray, room: int) -> str:
        """Name what is typical of a cluster, with up to ``room`` items."""
        latest = group[-SAMPLES:]
        closeness = np.round(self.units[latest] @ self.units[group].mean(axis=0), 5)
        central = latest[np.argsort(-closeness, kind="stable")]
        titles = dict.fromkeys(self.titles[line] for line in central)
        common = (_commonest(names[line] for line in group) for names in (self.kinds, self.brands))
        words = [*islice(titles, room), *common]
        return ", ".join(dict.fromkeys(word for word in words if word))

    def _naive(self, user: UserGroups) -> str:
        return "; ".join(dict.fromkeys(self.titles[line] for line in user.sample()))


def _commonest(words: Iterable[str]) -> str:
    """The commonest word that is not empty; of equals the first."""
    counts = Counter(word for word in words if word)
    return counts.most_common(1)[0][0] if counts else ""
