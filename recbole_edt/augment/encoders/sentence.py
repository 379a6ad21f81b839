"""A local model of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_edt.augment.encoders import Encoder, register_encoder
from recbole_edt.errors import ConfigError


@register_encoder("sentence-transformers")
class SentenceEncoder(Encoder):
    """A model by its name or folder; needs the extra ``[sentence]``."""

    def __init__(self, settings, about=None, client=None) -> None:
        super().__init__(settings, about, client)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                "encoder sentence-transformers needs: pip install 'recbole-edt[sentence]'"
            ) from error
        self.model = SentenceTransformer(settings.sentence_model)
        self.identity = f"sentence-transformers {settings.sentence_model}"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts, float32 [texts, d_L], rows of length 1."""
        vectors = self.model.encode(list(texts), normalize_embeddings=True)
        return np.asarray(vectors, dtype=np.float32)
