"""What a run would ask and pay: it is gone through without a call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from recbole_edt.augment.llm.client import LLMClient
from recbole_edt.augment.llm.requests import Answer, ChatRequest
from recbole_edt.augment.llm.settings import LLMSettings

_DIMENSIONS = 256


class DryRun(LLMClient):
    """A client that never calls anybody, for estimates.

    Answers come from the cache where it has them. Elsewhere what the request names as ``likely``
    stands in, and hashed words of a text for its vector, so that what builds on an answer can be
    estimated too.

    Parameters
    ----------
    settings : LLMSettings
        Endpoints and prices.
    cache : str or Path
        As for :class:`LLMClient`; where there is no such file, none is made.

    Attributes
    ----------
    estimates : list of dict
        One per call of :meth:`chat` or :meth:`embed`, in their order, as :meth:`estimate_chat`
        returns them; ``prompts`` says whether what would be sent is ``exact`` or an ``estimate``,
        because it builds on answers that are not there yet.
    """

    def __init__(self, settings: LLMSettings, cache: str | Path) -> None:
        super().__init__(settings, cache if Path(cache).is_file() else ":memory:")
        self.estimates: list[dict[str, Any]] = []
        self._size: int | None = None
        self._made_up = False

    def chat(self, requests: Sequence[ChatRequest], stage: str) -> list[Answer]:
        """Give one answer per request, known or made up."""
        self._enter(self.estimate_chat(requests, stage))
        pairs = zip(requests, self.recall(requests), strict=True)
        return [known or _made_up(request) for request, known in pairs]

    def embed(self, texts: Sequence[str], stage: str) -> tuple[np.ndarray, dict[int, str]]:
        """Give one vector per text: the known ones if none is missing, else made-up ones."""
        self._enter(self.estimate_embed(texts, stage))
        vectors = self.recall_vectors(texts)
        if vectors is None:
            hashing = HashingVectorizer(n_features=self._size or _DIMENSIONS)
            vectors = np.asarray(hashing.transform(texts).todense(), dtype=np.float32)
        self._size = vectors.shape[1]
        return vectors, {}

    def _enter(self, estimate: dict[str, Any]) -> None:
        prompts = "estimate" if self._made_up else "exact"
        self.estimates.append(estimate | {"prompts": prompts})
        self._made_up |= estimate["calls"] > 0


def _made_up(request: ChatRequest) -> Answer:
    if request.likely is None:
        return Answer(error="no answer is at hand")
    return Answer(request.likely())
