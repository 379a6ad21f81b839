"""Encoders: texts in, vectors out. A file of this folder holds one and registers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from recbole_edt.augment.providers import Provider, import_providers, registration
from recbole_edt.io.files import atomic_write, value_sha256, write_array


class Encoder(Provider, ABC):
    """Turns texts into vectors."""

    items_only: ClassVar[bool] = False
    """It has vectors of the raw items alone, for no other text."""
    identity: str = ""
    """What, beside the texts, decides the vectors: their key on disk. Empty for no cache."""
    corpus: list[str] | None = None
    """Texts that it is fitted to, where they are not those of the items."""

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


class CachedEncoder(Encoder):
    """Encoder with an on-disk cache of its vectors; none of its texts may fail."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        super().__init__(encoder.settings)
        self.encoder, self.folder, self.corpus = encoder, folder, encoder.corpus
        self._items: list[str] = []
        self._is_fitted = False

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode the items."""
        self._items = list(texts)
        return self._cached([])

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode further texts into the space of the items."""
        return self._cached(list(texts)), {}

    def _cached(self, further: list[str]) -> np.ndarray:
        digest = value_sha256([self.encoder.identity, self._items, further])[:24]
        path = self.folder / f"encode-{digest}.npy"
        if path.is_file():
            try:
                return np.load(path, allow_pickle=False)
            except (ValueError, OSError, EOFError):
                path.unlink()  # damaged: made again
        if not (further and self._is_fitted):
            made = self.encoder.encode(self._items)
            self._is_fitted = True
        if further:
            made = self.encoder.encode_more(further)[0]
        with atomic_write(path) as temporary:
            write_array(temporary, made)
        return made


ENCODERS: dict[str, type[Encoder]] = {}
"""Name in ``encoder:`` -> class."""

register_encoder = registration(ENCODERS)
"""``@register_encoder("mine")`` enters a subclass of :class:`Encoder`."""

import_providers(__name__, __path__)
