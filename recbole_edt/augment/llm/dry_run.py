"""What a run would ask and pay: it is gone through without a call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from recbole_edt.augment.llm.client import LLMClient
from recbole_edt.augment.llm.costs import estimated_tokens
from recbole_edt.augment.llm.requests import Answer, ChatRequest
from recbole_edt.augment.llm.settings import LLMSettings
from recbole_edt.augment.llm.wire import question, text_key

_DIMENSIONS = 256


class DryRun(LLMClient):
    """A client that never calls anybody, for estimates.

    Answers come from the cache where it has them. Elsewhere what the request names as ``likely``
    stands in, and hashed words of a text for its vector, so that what builds on an answer can be
    estimated too.

    Attributes
    ----------
    estimates : list of dict
        One per call of :meth:`chat` or :meth:`embed`, in their order: ``stage``, ``requests``,
        ``from_cache``, ``calls`` to make, ``prompt_tokens``, ``completion_tokens`` (each answer as
        long as its request's ``likely`` one, or filling ``max_tokens`` where there is none),
        ``dollars``, and ``prompts``: whether what would be sent is ``exact`` or an ``estimate``,
        because it builds on answers that are not there yet.
    """

    def __init__(self, settings: LLMSettings, cache: str | Path) -> None:
        super().__init__(settings, cache if Path(cache).is_file() else ":memory:")
        self.estimates: list[dict[str, Any]] = []
        self._size: int | None = None
        self._is_made_up = False

    def chat(self, requests: Sequence[ChatRequest], stage: str) -> list[Answer]:
        """Give one answer per request, known or made up."""
        endpoint = self._chat_endpoint()
        asked = [question(request, endpoint) for request in requests]
        keys, questions = [one.key for one in asked], {one.key: one for one in asked}
        known = self._known_answers(questions)
        missing = [q.request for key, q in questions.items() if key not in known]
        prompt = sum(estimated_tokens(request.system + request.user) for request in missing)
        completion = sum(_likely_tokens(request, endpoint.max_tokens) for request in missing)
        dollars = endpoint.prices.dollars(prompt, 0, completion)
        self._enter(stage, keys, known, len(missing), prompt, completion, dollars)
        pairs = zip(keys, requests, strict=True)
        return [known.get(key) or _made_up(request) for key, request in pairs]

    def embed(self, texts: Sequence[str], stage: str) -> tuple[np.ndarray, dict[int, str]]:
        """Give one vector per text: the known ones if none is missing, else made-up ones."""
        endpoint = self._embedding_endpoint()
        keys = [text_key(text, endpoint) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        state = self._known_vectors(list(distinct))
        known = state.found
        missing = [t for key, t in distinct.items() if key not in known and t.strip()]
        prompt = sum(map(estimated_tokens, missing))
        calls = -(-len(missing) // endpoint.batch_size)
        self._enter(stage, keys, known, calls, prompt, 0, endpoint.prices.dollars(prompt))
        if known.keys() >= set(keys):
            vectors = state.rows(keys)
        else:
            hashing = HashingVectorizer(n_features=self._size or _DIMENSIONS)
            vectors = np.asarray(hashing.transform(texts).todense(), dtype=np.float32)
        self._size = vectors.shape[1]
        return vectors, {}

    def _enter(self, stage, keys, known, calls: int, prompt: int, completion: int, dollars) -> None:
        self.estimates.append({
            "stage": stage,
            "requests": len(keys),
            "from_cache": sum(key in known for key in keys),
            "calls": calls,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "dollars": dollars,
            "prompts": "estimate" if self._is_made_up else "exact",
        })  # fmt: skip
        self._is_made_up |= calls > 0


def _likely_tokens(request: ChatRequest, most: int) -> int:
    """About how long the answer will be."""
    if request.likely is None:
        return most
    return min(most, estimated_tokens(json.dumps(request.likely())))


def _made_up(request: ChatRequest) -> Answer:
    if request.likely is None:
        return Answer(error="no answer is at hand")
    return Answer(request.likely())
