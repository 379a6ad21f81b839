"""The one door to language models: asks many things at once, and each of them once."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.costs import (
    Budget,
    StageCounts,
    Usage,
    estimated_tokens,
    most_tokens,
)
from recbole_edt.augment.llm.reading import read_answer
from recbole_edt.augment.llm.requests import Answer, ChatRequest
from recbole_edt.augment.llm.schema import Mismatch
from recbole_edt.augment.llm.settings import ChatEndpoint, EmbeddingEndpoint, LLMSettings
from recbole_edt.augment.llm.transport import BadResponse, Caller, CallFailed, Run, opened
from recbole_edt.augment.llm.wire import (
    Messages,
    Question,
    distinct_questions,
    embedding_body,
    read_vectors,
    reask,
    text_key,
    written,
)
from recbole_edt.errors import ConfigError, DataError


@dataclass
class _Vectors:
    """What embedding distinct texts has come to so far; all vectors are of one size."""

    size: int | None
    found: dict[bytes, np.ndarray] = field(default_factory=dict)
    lost: dict[bytes, str] = field(default_factory=dict)


class LLMClient:
    """Asks chat and embedding models, many requests at a time, and never the same one twice.

    Use it as a context manager. Nothing that the caller did wrong or the model did badly is an
    exception: such a request comes back with its reason. What no request can get past is one: a
    wrong key, no credit, no such model, ``max_cost``. All answers so far are then in the cache.

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
        """Have all requests answered; blocks until that is done.

        Parameters
        ----------
        requests : sequence of ChatRequest
            Equal ones are asked once.
        stage : str
            Under which the costs are kept.

        Returns
        -------
        list of Answer
            One per request, in their order.

        Raises
        ------
        ConfigError, CostLimitError, EndpointError
            If the run cannot go on; all answers so far are kept.
        """
        endpoint, counts = self._chat_endpoint(), self._counts(stage)
        keys, questions = distinct_questions(requests, endpoint)
        answers = self._remembered(questions)
        to_ask = [question for key, question in questions.items() if key not in answers]
        known = frozenset(answers)
        try:
            if to_ask:
                _block_on(self._ask_all(to_ask, endpoint, stage, len(questions), answers))
        finally:
            done = [answers[key] for key in keys if key in answers]
            self._count(counts, [a.error for a in done], sum(key in known for key in keys))
        self._warn(stage, [answer.error for answer in done if answer.error])
        return done

    def _remembered(self, questions: Mapping[bytes, Question]) -> dict[bytes, Answer]:
        out = {}
        for key, text in self._cache.answers(list(questions)).items():
            try:
                value = read_answer(text, questions[key].request.schema)
            except Mismatch:  # kept by a version that read answers in another way
                continue
            out[key] = Answer(value, cached=True)
        return out

    async def _ask_all(
        self,
        questions: Sequence[Question],
        endpoint: ChatEndpoint,
        stage: str,
        total: int,
        answers: dict[bytes, Answer],
    ) -> None:
        run = self._new_run()
        with _bar(stage, total, total - len(questions)) as bar:
            async with opened(endpoint, self.settings, run) as caller:

                async def answer(question: Question) -> None:
                    try:
                        answers[question.key] = await self._ask(question, caller, run, stage)
                    except CallFailed as failure:
                        answers[question.key] = Answer(error=str(failure))
                    bar.update()

                try:
                    await run.work_through(questions, answer, self.settings.concurrency)
                finally:
                    self._counts(stage).retries += run.retries

    async def _ask(self, question: Question, caller: Caller, run: Run, stage: str) -> Answer:
        """Ask, and once more with the reason where the answer cannot be used; then afresh."""
        reason = ""
        for _ in range(self.settings.asks):
            messages = question.messages
            for is_reask in (False, True):
                self._counts(stage).reasks += is_reask
                text, usage, cut = await self._complete(question, messages, caller, run, stage)
                try:
                    value = read_answer(text, question.request.schema)
                except Mismatch as mismatch:
                    self._cache.keep_usage(stage, usage)
                    reason = f"{mismatch}{' (cut off at max_tokens)' if cut else ''}"
                    messages = [*question.messages, *reask(text, str(mismatch), cut)]
                else:
                    self._cache.keep_answer(stage, usage, question.key, text)
                    return Answer(value)
        return Answer(error=f"no answer that can be used: {reason}")

    async def _complete(
        self, question: Question, messages: Messages, caller: Caller, run: Run, stage: str
    ) -> tuple[str, Usage, bool]:
        """Make one completion: what was written, its cost, and whether it was cut off."""
        endpoint = self._chat_endpoint()
        asked = "".join(message["content"] for message in messages)

        def read(payload: dict) -> tuple[str, Usage, bool]:
            text, finish = written(payload)
            usage = Usage.reported(payload, endpoint.prices, asked, text)
            self._pay(run, stage, usage)
            if not text.strip():
                self._cache.keep_usage(stage, usage)
                if finish in ("length", "content_filter"):
                    raise CallFailed(f"the model wrote nothing (finish_reason: {finish})")
                raise BadResponse("the response holds no answer")
            return caller.redact(text), usage, finish == "length"

        most = endpoint.prices.dollars(most_tokens(asked), 0, question.max_tokens)
        body = {**question.body, "messages": messages}
        return await caller.post("/chat/completions", body, most, read)

    # -- embeddings ---------------------------------------------------------------------------

    def embed(self, texts: Sequence[str], stage: str) -> tuple[np.ndarray, dict[int, str]]:
        """Turn texts into vectors; blocks until that is done.

        Parameters
        ----------
        texts : sequence of str
            Equal ones are sent once.
        stage : str
            Under which the costs are kept.

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
        endpoint, counts = self._embedding_endpoint(), self._counts(stage)
        keys = [text_key(text, endpoint) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        state = self._remembered_vectors(list(distinct), endpoint)
        known = frozenset(state.found)
        state.lost = {
            key: "the text is empty" for key, text in distinct.items() if not text.strip()
        }
        to_embed = [key for key in distinct if key not in state.found and key not in state.lost]
        try:
            if to_embed:
                missing = {key: distinct[key] for key in to_embed}
                _block_on(self._embed_all(missing, endpoint, stage, state))
        finally:
            done = [state.lost.get(key) for key in keys if key in state.found or key in state.lost]
            self._count(counts, done, sum(key in known for key in keys))
        failures = {n: state.lost[key] for n, key in enumerate(keys) if key in state.lost}
        self._warn(stage, list(failures.values()))
        return _stacked(keys, state.found, state.size or 0), failures

    def _remembered_vectors(self, keys: list[bytes], endpoint: EmbeddingEndpoint) -> _Vectors:
        found = self._cache.vectors(keys)
        sizes = {len(vector) for vector in found.values()}
        if len(sizes) > 1:
            raise DataError(
                f"the LLM cache {self._cache.path} holds vectors of several sizes under the name "
                f"'{endpoint.model}': give each model a name of its own, or name another file"
            )
        return _Vectors(sizes.pop() if sizes else endpoint.dimensions, found)

    async def _embed_all(
        self, texts: Mapping[bytes, str], endpoint: EmbeddingEndpoint, stage: str, state: _Vectors
    ) -> None:
        run, keys, size = self._new_run(), list(texts), endpoint.batch_size
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        known = len(state.found) + len(state.lost)
        with _bar(stage, known + len(texts), known) as bar:
            async with opened(endpoint, self.settings, run) as caller:

                async def embed(batch: list[bytes]) -> None:
                    await self._embed(batch, texts, caller, run, stage, state)
                    bar.update(len(batch))

                try:
                    await run.work_through(batches, embed, self.settings.concurrency)
                finally:
                    self._counts(stage).retries += run.retries

    async def _embed(
        self,
        batch: list[bytes],
        texts: Mapping[bytes, str],
        caller: Caller,
        run: Run,
        stage: str,
        state: _Vectors,
    ) -> None:
        """Embed a batch; one that is refused is halved, so that a bad text fails alone."""
        endpoint = self._embedding_endpoint()
        asked = [texts[key] for key in batch]

        def read(payload: dict) -> tuple[np.ndarray, Usage]:
            usage = Usage.reported(payload, endpoint.prices, "".join(asked), "")
            self._pay(run, stage, usage)
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
                await self._embed(part, texts, caller, run, stage, state)
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
        stages = [*self._stages, *(stage for stage in ever if stage not in self._stages)]
        return {
            stage: self._stages.get(stage, StageCounts()).report(ever.get(stage, Usage()))
            for stage in stages
        }

    def estimate_chat(self, requests: Sequence[ChatRequest], stage: str) -> dict[str, Any]:
        """Say about what :meth:`chat` would cost, without the network.

        Returns
        -------
        dict
            ``stage``, ``requests``, ``from_cache``, ``calls`` to make, ``prompt_tokens``,
            ``completion_tokens`` (each answer as long as its request's ``likely`` one, or filling
            ``max_tokens`` where there is none) and ``dollars``. Calls that fail and have to be
            made again come on top.
        """
        endpoint = self._chat_endpoint()
        keys, questions = distinct_questions(requests, endpoint)
        known = self._remembered(questions)
        to_ask = [question for key, question in questions.items() if key not in known]
        prompt = sum(
            estimated_tokens(question.request.system + question.request.user) for question in to_ask
        )
        completion = sum(map(_likely_tokens, to_ask))
        return {
            "stage": stage,
            "requests": len(keys),
            "from_cache": sum(key in known for key in keys),
            "calls": len(to_ask),
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "dollars": endpoint.prices.dollars(prompt, 0, completion),
        }

    def estimate_embed(self, texts: Sequence[str], stage: str) -> dict[str, Any]:
        """Say about what :meth:`embed` would cost, without the network.

        Returns
        -------
        dict
            As for :meth:`estimate_chat`.
        """
        endpoint = self._embedding_endpoint()
        keys = [text_key(text, endpoint) for text in texts]
        distinct = {key: text for key, text in zip(keys, texts, strict=True) if text.strip()}
        known = self._cache.vectors(list(distinct))
        missing = [text for key, text in distinct.items() if key not in known]
        prompt = sum(map(estimated_tokens, missing))
        return {
            "stage": stage,
            "requests": len(keys),
            "from_cache": sum(key in known for key in keys),
            "calls": -(-len(missing) // endpoint.batch_size),
            "prompt_tokens": prompt,
            "completion_tokens": 0,
            "dollars": endpoint.prices.dollars(prompt),
        }

    def recall(self, requests: Sequence[ChatRequest]) -> list[Answer | None]:
        """Look answers up in the cache alone; None where there is none."""
        keys, questions = distinct_questions(requests, self._chat_endpoint())
        known = self._remembered(questions)
        return [known.get(key) for key in keys]

    def recall_vectors(self, texts: Sequence[str]) -> np.ndarray | None:
        """Look vectors up in the cache alone, float32 [texts, d]; None unless it has them all."""
        endpoint = self._embedding_endpoint()
        keys = [text_key(text, endpoint) for text in texts]
        state = self._remembered_vectors(list(dict.fromkeys(keys)), endpoint)
        if not state.found.keys() >= set(keys):
            return None
        return _stacked(keys, state.found, state.size or 0)

    # -- shared -------------------------------------------------------------------------------

    def _chat_endpoint(self) -> ChatEndpoint:
        if self.settings.chat is None:
            raise ConfigError("the LLM settings name no chat endpoint")
        return self.settings.chat

    def _embedding_endpoint(self) -> EmbeddingEndpoint:
        if self.settings.embedding is None:
            raise ConfigError("the LLM settings name no embedding endpoint")
        return self.settings.embedding

    def _counts(self, stage: str) -> StageCounts:
        return self._stages.setdefault(stage, StageCounts())

    def _new_run(self) -> Run:
        spent = sum(counts.paid.dollars for counts in self._stages.values())
        return Run(Budget(self.settings.max_cost, spent))

    def _pay(self, run: Run, stage: str, usage: Usage) -> None:
        counts = self._counts(stage)
        counts.paid += usage
        run.budget.spent += usage.dollars

    @staticmethod
    def _count(counts: StageCounts, errors: Sequence[str | None], from_cache: int) -> None:
        failed = sum(error is not None for error in errors)
        counts.requests += len(errors)
        counts.failed += failed
        counts.answered += len(errors) - failed
        counts.from_cache += from_cache

    def _warn(self, stage: str, reasons: Sequence[str]) -> None:
        if reasons:
            self._logger.warning(
                "%s: %d requests got no answer, the first: %s", stage, len(reasons), reasons[0]
            )


def _likely_tokens(question: Question) -> int:
    """About how long the answer will be."""
    likely = question.request.likely
    if likely is None:
        return question.max_tokens
    return min(question.max_tokens, estimated_tokens(json.dumps(likely())))


def _bar(stage: str, total: int, done: int) -> tqdm:
    return tqdm(total=total, initial=done, desc=stage, unit="req", disable=None, smoothing=0.05)


def _block_on(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, from within a notebook's running event loop too.

    What is there already is kept from the garbage collector meanwhile: going through all of torch
    and pandas would hold every call up for a sixth of a second each time.
    """
    gc.freeze()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
    else:
        with ThreadPoolExecutor(max_workers=1) as aside:
            aside.submit(asyncio.run, work).result()
    finally:
        gc.unfreeze()


def _stacked(keys: Sequence[bytes], found: Mapping[bytes, np.ndarray], size: int) -> np.ndarray:
    """One row per key; zeros where there is none."""
    out = np.zeros((len(keys), size), dtype=np.float32)
    for n, key in enumerate(keys):
        if key in found:
            out[n] = found[key]
    return out
