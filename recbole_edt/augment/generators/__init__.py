"""Generators (eq. 4): users in, proposed items out. A file of this folder holds one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

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
    """What was proposed."""

    # Per task the item lines proposed, best first; lines from ``len(histories.items)`` on are new
    # items
    items: list[np.ndarray]
    # Attributes of the new items, each listed once
    new_items: list[dict[str, Any]] = field(default_factory=list)
    # User token -> why nothing could be generated in at least one domain, one line
    failures: dict[str, str] = field(default_factory=dict)


class Generator(ABC):
    """Proposes items of a domain to users.

    Parameters
    ----------
    settings : AugmentSettings
        Keys of the command.
    space : ItemSpace
        Items and training rows.
    client : LLMClient
        None unless a stage has ``uses_llm``.
    """

    uses_llm: ClassVar[bool] = False

    def __init__(
        self, settings: AugmentSettings, space: ItemSpace, client: LLMClient | None = None
    ) -> None:
        self.settings, self.space = settings, space
        self.client = cast(LLMClient, client)

    @abstractmethod
    def generate(self, tasks: Sequence[Task]) -> Generated:
        """Propose items for each task."""


GENERATORS: dict[str, type[Generator]] = {}
"""Name in ``generator:`` -> class."""

register_generator = registration(GENERATORS)
"""``@register_generator("mine")`` enters a subclass of :class:`Generator`."""

import_providers(__name__, __path__)
