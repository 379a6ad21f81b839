"""Generators (eq. 4): users in, proposed items out. A file of this folder holds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from recbole_edt.augment.clusters import ItemSpace
from recbole_edt.augment.providers import Provider, import_providers, registration


class Task(NamedTuple):
    """One call of eq. 4: a user, and the domain that new items are wanted in (A2B, B2A)."""

    user: int
    target: int


@dataclass
class Generated:
    """What was proposed."""

    # Per task the item lines proposed, best first; lines from ``len(histories.items)`` on are new
    # items
    items: list[np.ndarray]
    # Attributes of the new items, each listed once
    new_items: list[dict[str, Any]] = field(default_factory=list)
    # User token -> why nothing could be generated in at least one domain, one line
    failures: dict[str, str] = field(default_factory=dict)


class Generator(Provider, ABC):
    """Proposes items of a domain to users."""

    @property
    def space(self) -> ItemSpace:
        """Items and training rows."""
        return self.about

    @abstractmethod
    def generate(self, tasks: Sequence[Task]) -> Generated:
        """Propose items for each task."""


GENERATORS: dict[str, type[Generator]] = {}
"""Name in ``generator:`` -> class."""

register_generator = registration(GENERATORS)
"""``@register_generator("mine")`` enters a subclass of :class:`Generator`."""

import_providers(__name__, __path__)
