"""What a run would ask and pay, simulated without a call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from recbole_edt.augment.llm.chat import Answer, ChatRequest
from recbole_edt.augment.llm.client import LLMClient
from recbole_edt.augment.llm.costs import estimated_tokens
from recbole_edt.augment.llm.dialect import Dialect
from recbole_edt.augment.llm.embedding import text_key
from recbole_edt.augment.llm.settings import Endpoint, LLMSettings, Prices


class DryRun(LLMClient):
    """A client that makes no calls, for estimates.

    Answers come from the cache where it has them. Elsewhere the request's ``likely`` answer and
    hashed words of a text take their place, so that later stages can be estimated too.

    Attributes
    ----------
    estimates : list of dict
        One per call of :meth:`chat` or :meth:`embed`, in their order: ``stage``, ``requests``,
        ``from_cache``, ``calls`` to make, ``prompt_tokens``, of which ``cached_tokens`` (the part
        that all prompts begin with, where the vendor keeps it), ``completion_tokens`` (each answer
        as long as its request's ``likely`` one, or filling ``max_tokens`` where there is none),
        ``dollars``, and ``prompts``: whether what would be sent is ``exact`` or an ``estimate``,
        because it depends on answers that are not known yet.
    """

    def __init__(self, settings: LLMSettings, cache: str | Path) -> None:
        super().__init__(settings, cache if Path(cache).is_file() else ":memory:")
        self.estimates: list[dict[str, Any]] = []
        self._n_dimensions = 256  # of hashed vectors

    def _dialect(self, endpoint: Endpoint) -> Dialect:
        """Give what the cache knows of an endpoint; it is not asked."""
        return self.endpoints.cached(endpoint) or Dialect.of(endpoint)

    def chat(self, requests: Sequence[ChatRequest], stage: str) -> list[Answer]:
        """Give one answer per request, known or made up."""
        endpoint = self.settings.endpoint("chat")
        dialect = self._dialect(endpoint)
        keys = [request.key(endpoint, dialect) for request in requests]
        asked = dict(zip(keys, requests, strict=True))
        _, answers = self._known_answers(asked, dialect)
        n_cached = sum(key in answers for key in keys)
        missing = {key: request for key, request in asked.items() if key not in answers}
        prompt = completion = 0
        for key, request in missing.items():
            made, most = dict(request.likely), endpoint.max_tokens
            prompt += estimated_tokens(request.system + request.user)
            completion += min(most, estimated_tokens(json.dumps(made))) if made else most
            answers[key] = Answer(made or None, None if made else "no answer is at hand")
        cached = _kept_by_vendor(list(missing.values()), endpoint.prices)
        dollars = endpoint.prices.dollars(prompt, cached, completion)
        dollars *= endpoint.prices.batch if self.settings.batch else 1.0
        self._enter(
            stage, requests=len(keys), from_cache=n_cached, calls=len(missing),
            prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion,
            dollars=dollars,
        )  # fmt: skip
        return [answers[key] for key in keys]

    def embed(self, texts: Sequence[str], stage: str) -> tuple[np.ndarray, dict[int, str]]:
        """Give one vector per text: the known ones if none is missing, else made-up ones."""
        endpoint = self.settings.endpoint("embedding")
        dialect = self._dialect(endpoint)
        keys = [text_key(text, endpoint, dialect) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        known = self._known_vectors(distinct, dialect)
        missing = [t for key, t in distinct.items() if key not in known and t.strip()]
        prompt = sum(map(estimated_tokens, missing))
        self._enter(
            stage, requests=len(keys), from_cache=sum(key in known for key in keys),
            calls=-(-len(missing) // endpoint.batch_size),
            prompt_tokens=prompt, cached_tokens=0, completion_tokens=0,
            dollars=endpoint.prices.dollars(prompt),
        )  # fmt: skip
        if known.keys() >= set(keys):
            vectors = self._rows(keys, known)
        else:
            hashing = HashingVectorizer(n_features=self._n_dimensions)
            vectors = np.asarray(hashing.transform(texts).todense(), dtype=np.float32)
        self._n_dimensions = vectors.shape[1]
        return vectors, {}

    def _enter(self, stage: str, **counts: float) -> None:
        is_made_up = any(earlier["calls"] for earlier in self.estimates)
        prompts = "estimate" if is_made_up else "exact"
        self.estimates.append({"stage": stage, **counts, "prompts": prompts})


def _kept_by_vendor(requests: Sequence[ChatRequest], prices: Prices) -> int:
    """Tokens of the common beginning of prompts that a vendor's cache spares all but the first."""
    if not requests or prices.cached_from is None:
        return 0
    texts = [request.system + request.user for request in requests]
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(texts), max(texts), strict=False))
    tokens = sum(1 for _ in alike) // 4
    return tokens * (len(requests) - 1) if tokens >= prices.cached_from else 0
