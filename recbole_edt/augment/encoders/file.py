"""Vectors that are on disk already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_edt.augment.encoders import Encoder, register_encoder
from recbole_edt.errors import ConfigError
from recbole_edt.io.atomic import load_embeddings


@register_encoder("file")
class FileEncoder(Encoder):
    """Vectors of the raw items, one per line of ``.item``."""

    items_only = True

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the rows of the file; there must be one per text."""
        return np.asarray(load_embeddings(self.about, len(texts), "item"), dtype=np.float32)

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Refuse: there are no further vectors."""
        raise ConfigError("encoder 'file' can encode nothing but the items it was made for")
