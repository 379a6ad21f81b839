"""Vectors of local encoders on disk, so that a second run does not make them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from recbole_edt.augment.encoders import Encoder
from recbole_edt.io.files import atomic_write, value_sha256, write_array


class CachedEncoder(Encoder):
    """An encoder whose vectors are kept: texts it has seen are neither fitted nor encoded."""

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        super().__init__(encoder.settings)
        self.encoder, self.folder = encoder, folder
        self.corpus: list[str] = []
        self._is_fitted = False

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode the corpus, float32 [texts, d_L]."""
        self.corpus = list(texts)
        return self._cached([], self._fit)

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode further texts into the space of the corpus; none fails."""

        def encode() -> np.ndarray:
            if not self._is_fitted:
                self._fit()
            return self.encoder.encode_more(texts)[0]

        return self._cached(list(texts), encode), {}

    def _fit(self) -> np.ndarray:
        self._is_fitted = True
        return self.encoder.encode(self.corpus)

    def _cached(self, further: list[str], make: Callable[[], np.ndarray]) -> np.ndarray:
        digest = value_sha256([self.encoder.identity, self.corpus, further])[:24]
        path = self.folder / f"encode-{digest}.npy"
        if path.is_file():
            try:
                return np.load(path, allow_pickle=False)
            except (ValueError, OSError, EOFError):
                path.unlink()  # damaged: made again
        made = make()
        with atomic_write(path) as temporary:
            write_array(temporary, made)
        return made
