"""An embedding endpoint that speaks OpenAI's interface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recbole_edt.augment.encoders import Encoder, register_encoder
from recbole_edt.errors import DataError


@register_encoder("openai")
class EndpointEncoder(Encoder):
    """Asks the embedding endpoint of the LLM settings; the client caches its vectors."""

    uses_llm = True

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode the items."""
        vectors, failures = self.client.embed(texts, "encode")
        if failures:
            place, reason = next(iter(failures.items()))
            raise DataError(
                f"{len(failures)} items could not be embedded, the first in line {place + 2} of "
                f".item ({reason}): run it again, or correct these lines"
            )
        return vectors

    def encode_more(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Encode further texts, each of which may fail."""
        return self.client.embed(texts, "encode")
