"""The endpoints of a run: asked once whether they can serve it, and which model answers there."""

from __future__ import annotations

import asyncio
from collections import Counter
from logging import getLogger
from typing import Any

from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.chat import chat_body
from recbole_edt.augment.llm.costs import Usage
from recbole_edt.augment.llm.dialect import Dialect
from recbole_edt.augment.llm.embedding import embedding_body
from recbole_edt.augment.llm.refusals import NO_ANSWER, Refusal
from recbole_edt.augment.llm.settings import ChatEndpoint, EmbeddingEndpoint, Endpoint, LLMSettings
from recbole_edt.augment.llm.transport import (
    CallFailed,
    EndpointError,
    Run,
    UnreachableError,
    UnservedError,
    in_loop,
)
from recbole_edt.errors import ConfigError

_TINY = "Reply with OK."
_TINY_TOKENS = 16
_RETRIES = 2
LOOK_S = 1.0
"""Seconds between two looks at a model that is loaded."""
_LOOKS = 120


class Endpoints:
    """What is known of each endpoint; the cache keeps it between runs."""

    def __init__(self, settings: LLMSettings, cache: AnswerCache) -> None:
        self._settings, self._cache = settings, cache
        self._dialects: dict[str, Dialect] = {}
        self._unreachable: dict[str, UnreachableError] = {}

    def dialect(self, endpoint: Endpoint) -> Dialect:
        """Give what is known of an endpoint; the first time, it is asked.

        Raises
        ------
        EDTError
            If it cannot serve this run: one line that names what to start or change. An endpoint
            that has served this cache before may be away: see :meth:`require`.
        """
        if endpoint.address not in self._dialects:
            kept = self.cached(endpoint)
            try:
                dialect = self._meet(endpoint, kept)
            except UnreachableError as error:
                if kept is None:
                    raise
                self._unreachable[endpoint.address], dialect = error, kept
            if kept is not None and kept.identity != dialect.identity:
                _tell_of_change(endpoint, kept.named, dialect.named)
            self._dialects[endpoint.address] = dialect
            self.save(endpoint)
        return self._dialects[endpoint.address]

    def require(self, endpoint: Endpoint) -> None:
        """Raise if an endpoint is away, now that the cache lacks an answer."""
        if endpoint.address in self._unreachable:
            raise self._unreachable[endpoint.address]

    def cached(self, endpoint: Endpoint) -> Dialect | None:
        """Give what the cache knows of an endpoint."""
        kept = self._cache.dialect(endpoint.address)
        return Dialect.model_validate_json(kept) if kept else None

    def save(self, endpoint: Endpoint) -> None:
        """Keep what has been found out of an endpoint."""
        dialect = self._dialects[endpoint.address]
        self._cache.keep_dialect(endpoint.address, dialect.model_dump_json())

    def rename(self, endpoint: Endpoint, name: str) -> None:
        """Note that responses name another model than before, or several in turn."""
        dialect = self._dialects[endpoint.address]
        if dialect.is_router:
            names = ", ".join(dict.fromkeys([*dialect.former, dialect.answers_as, name]))
            getLogger(__name__).warning(
                "%s names several %s models in turn (%s), which count as one: set "
                "%s.model to one if that is not meant",
                endpoint.place, endpoint.kind, names, endpoint.kind,
            )  # fmt: skip
        else:
            _tell_of_change(endpoint, dialect.answers_as, name)
            dialect.rename(name)
        self.save(endpoint)

    def names(self) -> dict[str, str]:
        """Name the models that were asked: kind of endpoint -> model, and who it says it is."""
        ends = (self._settings.chat, self._settings.embedding)
        known = ((end.kind, self._dialects.get(end.address)) for end in ends if end)
        return {kind: f"{one.model} ({one.named})" for kind, one in known if one}

    def _meet(self, endpoint: Endpoint, kept: Dialect | None) -> Dialect:
        """Find the model in the list of models; make a tiny request if that is not enough."""
        dialect, counts = Dialect.of(endpoint), Counter[str]()
        run = Run(endpoint, self._settings, dialect, counts, 0.0)

        async def ask() -> Dialect:
            others = ""
            async with run.client:
                if listed := await _loaded(run):
                    others = dialect.find(listed, endpoint)
                    if kept and kept.agrees(dialect):
                        return kept
                elif kept:  # a list that is missing this time is no sign of another model
                    dialect.model, dialect.served = kept.model, kept.served
                await self._try(endpoint, dialect, run, others)
            if kept:
                dialect.take_over(kept)
            return dialect

        found = in_loop(ask())
        self._cache.store("check", counts)
        return found

    async def _try(self, endpoint: Endpoint, dialect: Dialect, run: Run, others: str) -> None:
        if not dialect.model:
            raise ConfigError(
                f"{endpoint.place} does not tell which models it has: set {endpoint.kind}.model, "
                f"or correct {endpoint.kind}.base_url, which mostly ends in /v1"
            )

        is_chat = isinstance(endpoint, ChatEndpoint)
        field, path = ("choices", "/chat/completions") if is_chat else ("data", "/embeddings")

        def read(payload: dict[str, Any]) -> None:
            if not isinstance(payload.get(field), list):
                raise Refusal(f"the response has no list '{field}'", NO_ANSWER)
            run.pay(Usage.reported(payload, endpoint.prices, _TINY, ""))
            name = payload.get("model")
            dialect.answers_as = name if isinstance(name, str) else ""

        def body() -> dict[str, Any]:
            if isinstance(endpoint, EmbeddingEndpoint):
                return embedding_body([_TINY], endpoint, dialect)
            short: Any = endpoint.model_copy(update={"max_tokens": _TINY_TOKENS})
            return chat_body([{"role": "user", "content": _TINY}], None, short, dialect)

        try:
            await run.call(path, body, 0.0, read, _RETRIES)
        except (CallFailed, UnservedError) as failure:
            if others:
                raise ConfigError(
                    f"{endpoint.place} serves no model '{dialect.model}': set {endpoint.kind}.model"
                    f" to one of {others} ({failure})"
                ) from None
            if isinstance(failure, UnservedError):
                raise
            # of other failures the first real request tells more
            if failure.refusal.status == NO_ANSWER:
                raise EndpointError(
                    f"{endpoint.place} does not answer a first request as an OpenAI API does "
                    f"({failure}): mend the server, or correct {endpoint.kind}.base_url, which "
                    "mostly ends in /v1"
                ) from None


def _tell_of_change(endpoint: Endpoint, before: str, now: str) -> None:
    getLogger(__name__).warning(
        "another %s model answers at %s than before (%s, now %s): what the other one answered is "
        "left aside", endpoint.kind, endpoint.place, before, now,
    )  # fmt: skip


async def _loaded(run: Run) -> list[dict[str, Any]]:
    """List models; wait while llama.cpp loads its own, which it lists without ``meta`` by then."""
    listed = await run.listed_models()
    for _ in range(_LOOKS):
        own = [entry for entry in listed if entry.get("owned_by") == "llamacpp"]
        if all(entry.get("meta", "") is not None for entry in own):
            break
        await asyncio.sleep(LOOK_S)
        listed = await run.listed_models()
    return listed
