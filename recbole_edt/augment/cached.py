"""Results of stages on disk, so that a second run does not make them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_edt.augment.encode import LsaEncoder, SentenceEncoder
from recbole_edt.io.files import atomic_write, write_array


class StageCache:
    """Results of stages on disk, by what went into them; each is written whole or not at all.

    Parameters
    ----------
    folder : Path
        Where they lie; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def matrix(self, stage: str, inputs: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a matrix from disk, or make and keep it."""
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:24]
        path = self.folder / f"{stage}-{digest}.npy"
        if path.is_file():
            try:
                return np.load(path, allow_pickle=False)
            except (ValueError, OSError, EOFError):
                path.unlink()  # damaged: made again
        made = make()
        with atomic_write(path) as temporary:
            write_array(temporary, made)
        return made


class CachedEncoder:
    """A local encoder whose vectors are kept: texts it has seen are neither fitted nor encoded.

    Parameters
    ----------
    encoder : LsaEncoder or SentenceEncoder
        Encodes what is not there yet.
    cache : StageCache
        Where vectors are kept.
    identity : str
        What, beside the texts, decides the vectors.
    """

    def __init__(
        self, encoder: LsaEncoder | SentenceEncoder, cache: StageCache, identity: str
    ) -> None:
        self.encoder, self.cache, self.identity = encoder, cache, identity
        self.corpus: list[str] = []
        self._has_seen_corpus = False

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode the corpus, float32 [texts, dim]."""
        self.corpus = list(texts)
        return self.cache.matrix("encode", [self.identity, self.corpus], self._encode_corpus)

    def _encode_corpus(self) -> np.ndarray:
        self._has_seen_corpus = True
        return self.encoder.encode(self.corpus)

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode further texts into the space of the corpus.

        Returns
        -------
        vectors : ndarray
            float32 [texts, dim].
        failures : dict
            Empty.
        """

        def encode() -> np.ndarray:
            if not self._has_seen_corpus:
                self._encode_corpus()
            return self.encoder.encode_more(texts)[0]

        inputs = [self.identity, self.corpus, list(texts)]
        return self.cache.matrix("encode", inputs, encode), {}
