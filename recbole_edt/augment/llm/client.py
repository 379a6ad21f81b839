"""Asks language models many things at once, and each of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.costs import Budget, StageCounts, Usage, most_tokens
from recbole_edt.augment.llm.reading import read_answer
from recbole_edt.augment.llm.reply import Mismatch
from recbole_edt.augment.llm.requests import Answer, ChatRequest
from recbole_edt.augment.llm.settings import ChatEndpoint, EmbeddingEndpoint, Endpoint, LLMSettings
from recbole_edt.augment.llm.transport import BadResponse, Caller, CallFailed, Run, opened
from recbole_edt.augment.llm.wire import (
    Messages,
    Question,
    embedding_body,
    question,
    read_vectors,
    reask,
    text_key,
    written,
)
from recbole_edt.errors import ConfigError, DataError

T = TypeVar("T")


@dataclass
class _Vectors:
    """What embedding distinct texts has come to so far; all vectors are of one size."""

    size: int | None
    found: dict[bytes, np.ndarray] = field(default_factory=dict)
    lost: dict[bytes, str] = field(default_factory=dict)

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """One row per key, zero where there is none."""
        missing = np.zeros(self.size or 0, dtype=np.float32)
        rows = [self.found.get(key, missing) for key in keys]
        return np.stack(rows) if rows else np.zeros((0, self.size or 0), dtype=np.float32)


class LLMClient:
    """Asks chat and embedding models, many requests at a time, and never the same one twice.

    Use it as a context manager. A request that cannot be sent or is answered badly comes back with
    its reason. What no request can get past is an exception: a wrong key, no credit, no such model,
    ``max_cost``. All answers so far are then in the cache.

    Parameters
    ----------
    settings : LLMSettings
        Endpoints, retries and limits.
    cache : str or Path
        SQLite file of the answers; made if missing. One run at a time can hold it.

    Raises
    ------
    DataError
        If the cache is damaged or held by another run.
    """

    def __init__(self, settings: LLMSettings, cache: str | Path) -> None:
        self.settings = settings
        self._cache = AnswerCache(cache)
        self._stages: dict[str, StageCounts] = {}
        self._logger = getLogger(__name__)

    def __enter__(self) -> LLMClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the cache back."""
        self._cache.close()

    # -- chat ---------------------------------------------------------------------------------

    def chat(self, requests: Sequence[ChatRequest], stage: str) -> list[Answer]:
        """Have all requests answered; blocks until that is done."""
        endpoint = self._chat_endpoint()
        asked = [question(request, endpoint) for request in requests]
        questions = {one.key: one for one in asked}
        answers = self._known_answers(questions)
        known = frozenset(answers)

        async def ask(one: Question, caller: Caller) -> int:
            try:
                answers[one.key] = await self._ask(one, caller, stage)
            except CallFailed as failure:
                answers[one.key] = Answer(error=str(failure))
            return 1

        to_ask = [one for key, one in questions.items() if key not in known]
        try:
            self._work(endpoint, to_ask, ask, stage, len(questions), len(known))
        finally:
            done = [answers[one.key] for one in asked if one.key in answers]
            n_cached = sum(one.key in known for one in asked)
            self._count(stage, [answer.error for answer in done], n_cached)
        return done

    def _known_answers(self, questions: Mapping[bytes, Question]) -> dict[bytes, Answer]:
        out = {}
        for key, text in self._cache.answers(list(questions)).items():
            try:
                value = read_answer(text, questions[key].request.reply)
            except Mismatch:  # stored when replies were read in another way
                continue
            out[key] = Answer(value, cached=True)
        return out

    async def _ask(self, asked: Question, caller: Caller, stage: str) -> Answer:
        """Ask, and once more with the reason where the answer cannot be used; then afresh."""
        reason = ""
        for _ in range(self.settings.asks):
            messages = asked.messages
            for is_reask in (False, True):
                self._counts(stage).reasks += is_reask
                text, usage, was_cut = await self._complete(asked, messages, caller, stage)
                try:
                    value = read_answer(text, asked.request.reply)
                except Mismatch as mismatch:
                    self._cache.keep_usage(stage, usage)
                    reason = f"{mismatch}{' (cut off at max_tokens)' if was_cut else ''}"
                    messages = [*asked.messages, *reask(text, str(mismatch), was_cut)]
                else:
                    self._cache.keep_answer(stage, usage, asked.key, text)
                    return Answer(value)
        return Answer(error=f"no answer that can be used: {reason}")

    async def _complete(
        self, one: Question, messages: Messages, caller: Caller, stage: str
    ) -> tuple[str, Usage, bool]:
        """Make one completion: what was written, its cost, and whether it was cut off."""
        endpoint = self._chat_endpoint()
        asked = "".join(message["content"] for message in messages)

        def read(payload: dict) -> tuple[str, Usage, bool]:
            text, finish = written(payload)
            usage = Usage.reported(payload, endpoint.prices, asked, text)
            self._pay(caller.run, stage, usage)
            if not text.strip():
                self._cache.keep_usage(stage, usage)
                if finish in ("length", "content_filter"):
                    raise CallFailed(f"the model wrote nothing (finish_reason: {finish})")
                raise BadResponse("the response holds no answer")
            return caller.redact(text), usage, finish == "length"

        most = endpoint.prices.dollars(most_tokens(asked), 0, endpoint.max_tokens)
        body = {**one.body, "messages": messages}
        return await caller.post("/chat/completions", body, most, read)

    # -- embeddings ---------------------------------------------------------------------------

    def embed(self, texts: Sequence[str], stage: str) -> tuple[np.ndarray, dict[int, str]]:
        """Turn texts into vectors; blocks until that is done.

        Returns
        -------
        vectors : ndarray
            float32 [texts, d]; the row of a text that failed is all zeros. Where none succeeded,
            d is ``dimensions``, or 0 if that is not set.
        failures : dict
            Index of each text that failed -> one line that says why.

        Raises
        ------
        ConfigError, CostLimitError, EndpointError
            If the run cannot go on; all vectors so far are kept.
        DataError
            If the cache holds vectors of another size under the model's name.
        """
        endpoint = self._embedding_endpoint()
        keys = [text_key(text, endpoint) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        state = self._known_vectors(list(distinct))
        known = frozenset(state.found)
        state.lost = {
            key: "the text is empty" for key, text in distinct.items() if not text.strip()
        }
        settled = known.union(state.lost)
        missing = {key: text for key, text in distinct.items() if key not in settled}

        async def embed(batch: list[bytes], caller: Caller) -> int:
            await self._embed(batch, missing, caller, stage, state)
            return len(batch)

        to_ask, size = list(missing), endpoint.batch_size
        batches = [to_ask[start : start + size] for start in range(0, len(to_ask), size)]
        try:
            n_done = len(distinct) - len(missing)
            self._work(endpoint, batches, embed, stage, len(distinct), n_done)
        finally:
            settled = frozenset(state.found).union(state.lost)
            done = [state.lost.get(key) for key in keys if key in settled]
            self._count(stage, done, sum(key in known for key in keys))
        failures = {n: state.lost[key] for n, key in enumerate(keys) if key in state.lost}
        return state.rows(keys), failures

    def _known_vectors(self, keys: list[bytes]) -> _Vectors:
        endpoint = self._embedding_endpoint()
        found = self._cache.vectors(keys)
        sizes = {len(vector) for vector in found.values()}
        if len(sizes) > 1:
            raise DataError(
                f"the LLM cache {self._cache.path} holds vectors of several sizes under the name "
                f"'{endpoint.model}': give each model a name of its own, or name another file"
            )
        return _Vectors(sizes.pop() if sizes else endpoint.dimensions, found)

    async def _embed(
        self,
        batch: list[bytes],
        texts: Mapping[bytes, str],
        caller: Caller,
        stage: str,
        state: _Vectors,
    ) -> None:
        """Embed a batch; one that is refused is halved, so that a bad text fails alone."""
        endpoint = self._embedding_endpoint()
        asked = [texts[key] for key in batch]

        def read(payload: dict) -> tuple[np.ndarray, Usage]:
            usage = Usage.reported(payload, endpoint.prices, "".join(asked), "")
            self._pay(caller.run, stage, usage)
            try:
                rows = read_vectors(payload, len(batch), state.size)
            except BadResponse:
                self._cache.keep_usage(stage, usage)
                raise
            state.size = rows.shape[1]
            return rows, usage

        most = endpoint.prices.dollars(sum(map(most_tokens, asked)))
        try:
            body = embedding_body(asked, endpoint)
            rows, usage = await caller.post("/embeddings", body, most, read)
        except CallFailed as failure:
            if len(batch) == 1 or not failure.refused:
                state.lost.update(dict.fromkeys(batch, str(failure)))
                return
            for part in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                await self._embed(part, texts, caller, stage, state)
        else:
            vectors = dict(zip(batch, rows, strict=True))
            self._cache.keep_vectors(stage, usage, vectors)
            state.found.update(vectors)

    # -- costs --------------------------------------------------------------------------------

    def costs(self) -> dict[str, dict[str, float]]:
        """What each stage came to.

        Returns
        -------
        dict
            Stage -> ``requests`` = ``answered`` + ``failed``; of the answered ones
            ``from_cache``; ``retries`` and ``reasks``; ``prompt_tokens`` (of which
            ``cached_tokens`` at the vendor), ``completion_tokens`` and ``dollars`` paid through
            this client; ``total_dollars`` ever paid into this cache. For embeddings a request is
            a text.
        """
        ever = self._cache.paid()
        return {
            stage: self._stages.get(stage, StageCounts()).report(ever.get(stage, Usage()))
            for stage in dict.fromkeys([*self._stages, *ever])
        }

    def _counts(self, stage: str) -> StageCounts:
        return self._stages.setdefault(stage, StageCounts())

    def _pay(self, run: Run, stage: str, usage: Usage) -> None:
        self._counts(stage).paid += usage
        run.budget.spent += usage.dollars

    def _count(self, stage: str, errors: Sequence[str | None], n_cached: int) -> None:
        counts = self._counts(stage)
        failed = [error for error in errors if error is not None]
        counts.requests += len(errors)
        counts.failed += len(failed)
        counts.answered += len(errors) - len(failed)
        counts.from_cache += n_cached
        if failed:
            self._logger.warning(
                "%s: %d requests got no answer, the first: %s", stage, len(failed), failed[0]
            )

    # -- shared -------------------------------------------------------------------------------

    def _chat_endpoint(self) -> ChatEndpoint:
        if self.settings.chat is None:
            raise ConfigError("the LLM settings name no chat endpoint")
        return self.settings.chat

    def _embedding_endpoint(self) -> EmbeddingEndpoint:
        if self.settings.embedding is None:
            raise ConfigError("the LLM settings name no embedding endpoint")
        return self.settings.embedding

    def _work(
        self,
        endpoint: Endpoint,
        jobs: Sequence[T],
        do: Callable[[T, Caller], Awaitable[int]],
        stage: str,
        total: int,
        done: int,
    ) -> None:
        """Do all jobs, many at a time; each returns how many of ``total`` it has settled."""

        async def work() -> None:
            spent = sum(counts.paid.dollars for counts in self._stages.values())
            run = Run(Budget(self.settings.max_cost, spent))
            bar = tqdm(total=total, initial=done, desc=stage, unit="req", disable=None)
            with bar:
                async with opened(endpoint, self.settings, run) as caller:

                    async def one(job: T) -> None:
                        bar.update(await do(job, caller))

                    try:
                        await run.work_through(jobs, one, self.settings.concurrency)
                    finally:
                        self._counts(stage).retries += run.retries

        if jobs:
            _block_on(work())


def _block_on(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, from within a notebook's running event loop too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
    else:
        with ThreadPoolExecutor(max_workers=1) as aside:
            aside.submit(asyncio.run, work).result()
