"""Encoders: texts in, vectors out. A file of this folder holds one and registers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from recbole_edt.augment.llm import LLMClient
from recbole_edt.augment.providers import import_providers, registration

if TYPE_CHECKING:
    from recbole_edt.augment.settings import AugmentSettings


class Encoder(ABC):
    """Turns texts into vectors.

    Parameters
    ----------
    settings : AugmentSettings
        Keys of the command.
    vectors : Path
        ``<D>.item_emb.npy`` of the raw data, which need not exist.
    client : LLMClient
        None unless a stage has ``uses_llm``.

    Attributes
    ----------
    uses_llm : bool
        An LLM client is needed.
    items_only : bool
        It has vectors of the raw items alone, for no other text.
    identity : str
        What, beside the texts, decides the vectors: they are cached on disk under it. Empty for
        vectors that need no cache.
    """

    uses_llm: ClassVar[bool] = False
    items_only: ClassVar[bool] = False
    identity: str = ""

    def __init__(
        self,
        settings: AugmentSettings,
        vectors: Path | None = None,
        client: LLMClient | None = None,
    ) -> None:
        self.settings = settings
        self.vectors = cast(Path, vectors)
        self.client = cast(LLMClient, client)

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode the items, float32 [texts, d_L]; all of them are needed."""

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode further texts into the space of the items.

        Returns
        -------
        vectors : ndarray
            float32 [texts, d_L]; zero where a text failed.
        failures : dict
            Index of each such text -> why, one line.
        """
        return self.encode(texts), {}


ENCODERS: dict[str, type[Encoder]] = {}
"""Name in ``encoder:`` -> class."""

register_encoder = registration(ENCODERS)
"""``@register_encoder("mine")`` enters a subclass of :class:`Encoder`."""

import_providers(__name__, __path__)
