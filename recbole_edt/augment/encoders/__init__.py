"""Encoders: texts in, vectors out. A file of this folder holds one and registers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.preprocessing import normalize

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


class JoinedEncoder(Encoder):
    """Vectors of several encoders side by side, each of length one before.

    Sentence models know what words mean, and word counts which words there are, such as brands.
    The cosine of two texts is the mean of their cosines by each encoder.
    """

    kinds: ClassVar[tuple[type[Encoder], ...]] = ()

    def __init__(self, settings: Any, about: Any = None, client: Any = None) -> None:
        super().__init__(settings, about, client)
        self.parts = [kind(settings, about, client) for kind in self.kinds]
        self.corpus = next((part.corpus for part in self.parts if part.corpus), None)
        identities = [part.identity for part in self.parts]
        self.identity = " + ".join(identities) if all(identities) else ""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode the items."""
        return self._beside([part.encode(texts) for part in self.parts])

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode further texts; one that fails for an encoder has no vector."""
        made = [part.encode_more(texts) for part in self.parts]
        failures = {place: why for _, failed in made for place, why in failed.items()}
        vectors = self._beside([vectors for vectors, _ in made])
        vectors[list(failures)] = 0.0
        return vectors, failures

    def _beside(self, parts: list[np.ndarray]) -> np.ndarray:
        units = np.concatenate([normalize(part) for part in parts], axis=1)
        return units.astype(np.float32) / np.float32(len(parts) ** 0.5)


ENCODERS: dict[str, type[Encoder]] = {}
"""Name in ``encoder:`` -> class."""


def encoder_class(name: str) -> type[Encoder]:
    """Class of an encoder, or of several that are joined: ``file+lsa``.

    Raises
    ------
    ValueError
        If a name is not registered, or is there twice.
    """
    names = name.split("+")
    if len({*names} & {*ENCODERS}) < len(names):
        raise ValueError(f"one of {', '.join(ENCODERS)}, or several of them such as file+lsa")
    kinds = tuple(ENCODERS[one] for one in names)
    return _joined(kinds) if len(kinds) > 1 else kinds[0]


@cache
def _joined(kinds: tuple[type[Encoder], ...]) -> type[Encoder]:
    content = {
        "kinds": kinds,
        "uses_llm": any(kind.uses_llm for kind in kinds),
        "items_only": any(kind.items_only for kind in kinds),
    }
    return type(JoinedEncoder.__name__, (JoinedEncoder,), content)


register_encoder = registration(ENCODERS)
"""``@register_encoder("mine")`` enters a subclass of :class:`Encoder`."""

import_providers(__name__, __path__)
