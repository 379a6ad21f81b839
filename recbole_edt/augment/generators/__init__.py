"""Generators (eq. 4): users in, proposed items out. A file of this folder holds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from recbole_edt.augment.clusters import ItemSpace
from recbole_edt.augment.llm import LLMClient
from recbole_edt.augment.providers import import_providers, registration

if TYPE_CHECKING:
    from recbole_edt.augment.settings import AugmentSettings


class Task(NamedTuple):
    """One call of eq. 4: a user, and the domain that new items are wanted in (A2B, B2A)."""

    user: int
    target: int


@dataclass
class Generated:
    """What was proposed.

    Attributes
    ----------
    items : list of np.ndarray
        Per task the item lines proposed, best first; lines from ``len(histories.items)`` on are
        new items.
    new_items : list of dict
        Attributes of the new items, each listed once.
    failures : dict
        User token -> why nothing could be generated in at least one domain, one line.
    """

    items: list[np.ndarray]
    new_items: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


class Generator(ABC):
    """Proposes items of a domain to users; ``uses_llm`` asks for an LLM client."""

    uses_llm: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def build(
        cls, settings: AugmentSettings, space: ItemSpace, client: LLMClient | None
    ) -> Generator:
        """Make a generator; the client is None unless a stage has ``uses_llm``."""

    @abstractmethod
    def generate(self, tasks: Sequence[Task]) -> Generated:
        """Propose items for each task."""


GENERATORS: dict[str, type[Generator]] = {}
"""Name in ``generator:`` -> class."""

register_generator = registration(GENERATORS)
"""``@register_generator("mine")`` enters a subclass of :class:`Generator`."""

import_providers(__name__, __path__)
