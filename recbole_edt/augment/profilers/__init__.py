"""Profilers (3.4): users' items in, one text per user out. A file of this folder holds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import pandas as pd

from recbole_edt.augment.prompts import imbalance
from recbole_edt.augment.providers import Provider, import_providers, registration

SAMPLES = 10
"""Most items of a cluster that a text looks at: its latest ones."""


@dataclass(frozen=True)
class UserGroups:
    """A user's augmented training items."""

    user: str  # Token
    # Per domain the items of each cluster in the order of the sequence, large clusters first
    groups: tuple[list[np.ndarray], list[np.ndarray]]

    def sizes(self) -> tuple[int, int]:
        """Count the items of each domain."""
        first, second = (sum(map(len, side)) for side in self.groups)
        return first, second

    def imbalance(self, side: int) -> str:
        """Say in words how much a domain is of the whole (3.4.2)."""
        sizes = self.sizes()
        return imbalance(sizes[side], sizes[1 - side])

    def sample(self) -> list[int]:
        """Choose up to ``SAMPLES`` items, half of each domain, the clusters taking turns.

        Each cluster gives its latest items first; what one domain lacks the other may fill.
        """
        sides = []
        for groups in self.groups:
            turns = zip_longest(*(reversed(group.tolist()) for group in groups))
            sides.append([line for turn in turns for line in turn if line is not None])
        rooms = [max(SAMPLES // 2, SAMPLES - len(other)) for other in reversed(sides)]
        return [line for side, room in zip(sides, rooms, strict=True) for line in side[:room]]


@dataclass(frozen=True)
class Profiles:
    """Written profiles."""

    texts: list[str]  # One per user; empty where a user failed or has no items
    failures: dict[str, str] = field(default_factory=dict)  # User -> why, one line


@dataclass(frozen=True)
class Described:
    """The items that profiles are about."""

    # Domain and text of the lines of ``.item``, generated ones included
    items: pd.DataFrame
    domains: Sequence[str]  # Names of domain A and B
    vectors: np.ndarray  # Any float type [n_items, d_L]


class Profiler(Provider, ABC):
    """Writes profiles."""

    @abstractmethod
    def write(self, users: Sequence[UserGroups]) -> Profiles:
        """Write one profile per user."""


PROFILERS: dict[str, type[Profiler]] = {}
"""Name in ``profiler:`` -> class."""

register_profiler = registration(PROFILERS)
"""``@register_profiler("mine")`` enters a subclass of :class:`Profiler`."""

import_providers(__name__, __path__)
