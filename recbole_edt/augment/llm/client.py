"""Asks language models many things in parallel, and each of them once."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.costs import Usage, most_tokens
from recbole_edt.augment.llm.reading import Mismatch, Reply, read_answer, well_formed
from recbole_edt.augment.llm.settings import ChatEndpoint, EmbeddingEndpoint, Endpoint, LLMSettings
from recbole_edt.augment.llm.transport import BadResponse, CallFailed, Run
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io.files import value_sha256

_SHOWN = 4000  # characters of a bad answer that the model gets to see again
_COUNTS = ("requests", "answered", "from_cache", "failed", "retries", "reasks", *Usage._fields)


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model whose answer must be JSON."""

    system: str  # The two messages. With JSON mode on, vendors want the word JSON in one of them
    user: str
    reply: type[Reply]  # What the answer must be
    # Makes up an answer of the usual length, for estimates; it is never sent
    likely: Callable[[], dict[str, Any]] = dict


@dataclass(frozen=True)
class Answer:
    """A value, or one line that says why there is none."""

    value: dict[str, Any] | None = None  # Fields of the request's reply
    error: str | None = None
    cached: bool = False  # The value was in the cache before


class LLMClient(AbstractContextManager["LLMClient"]):
    """Asks chat and embedding models, many requests at a time, and never the same one twice.

    Use it as a context manager. A request that cannot be sent or is answered badly comes back with
    its reason. Errors that concern every request are raised: a wrong key, no credit, no such model,
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
        self._stages: dict[str, Counter[str]] = defaultdict(Counter)

    def __exit__(self, *_: object) -> None:
        self._cache.close()

    @property
    def chat_endpoint(self) -> ChatEndpoint:
        """Where chat requests go."""
        if self.settings.chat is None:
            raise ConfigError("the LLM settings name no chat endpoint")
        return self.settings.chat

    @property
    def embedding_endpoint(self) -> EmbeddingEndpoint:
        """Where texts are embedded."""
        if self.settings.embedding is None:
            raise ConfigError("the LLM settings name no embedding endpoint")
        return self.settings.embedding

    # -- chat ---------------------------------------------------------------------------------

    def chat(self, requests: Sequence[ChatRequest], stage: str) -> list[Answer]:
        """Answer all requests; blocks until done."""
        endpoint = self.chat_endpoint
        bodies = [chat_body(request, endpoint) for request in requests]
        keys = [content_key(endpoint, body) for body in bodies]
        asked = dict(zip(keys, zip(requests, bodies, strict=True), strict=True))
        answers = self._known_answers({key: request for key, (request, _) in asked.items()})
        known = frozenset(answers)

        async def ask(key: bytes, run: Run) -> None:
            try:
                answers[key] = await self._ask(key, *asked[key], run, stage)
            except CallFailed as failure:
                answers[key] = Answer(error=str(failure))

        try:
            self._work(endpoint, [key for key in asked if key not in known], ask, stage)
        finally:
            done = [answers[key] for key in keys if key in answers]
            self._count(stage, [one.error for one in done], sum(key in known for key in keys))
        return done

    def _known_answers(self, requests: Mapping[bytes, ChatRequest]) -> dict[bytes, Answer]:
        out = {}
        for key, text in self._cache.answers(requests).items():
            try:
                out[key] = Answer(read_answer(text, requests[key].reply), cached=True)
            except Mismatch:  # stored when replies were read in another way
                continue
        return out

    async def _ask(
        self, key: bytes, request: ChatRequest, body: dict[str, Any], run: Run, stage: str
    ) -> Answer:
        """Ask, and once more with the reason if the answer cannot be used; then from scratch."""
        complaint: list[dict[str, str]] = []
        reason = ""
        for turn in range(2 * self.settings.asks):
            run.counts["reasks"] += turn % 2
            messages = [*body["messages"], *(complaint if turn % 2 else [])]
            text, usage, was_cut = await self._complete(body | {"messages": messages}, run, stage)
            try:
                value = read_answer(text, request.reply)
            except Mismatch as mismatch:
                self._cache.store(stage, usage)
                reason = f"{mismatch}{' (cut off at max_tokens)' if was_cut else ''}"
                shorter = " It was cut off because it was too long: write less." if was_cut else ""
                said = (
                    f"This answer cannot be used: {mismatch}.{shorter} Answer again with the "
                    "whole JSON object in the form asked for, and nothing else."
                )
                complaint = _messages(assistant=text[:_SHOWN], user=said)
            else:
                self._cache.store(stage, usage, answers={key: text})
                return Answer(value)
        return Answer(error=f"no answer that can be used: {reason}")

    async def _complete(
        self, body: dict[str, Any], run: Run, stage: str
    ) -> tuple[str, Usage, bool]:
        """Make one completion: its text, its cost, and whether it was cut off."""
        prices = self.chat_endpoint.prices
        asked = "".join(message["content"] for message in body["messages"])

        def read(payload: dict) -> tuple[str, Usage, bool]:
            try:
                choice = payload["choices"][0]
                text, finish = choice["message"]["content"], choice.get("finish_reason")
            except (KeyError, IndexError, TypeError, AttributeError):
                text, finish = "", None
            text = well_formed(text) if isinstance(text, str) else ""
            usage = Usage.reported(payload, prices, asked, text)
            run.pay(usage)
            if not text.strip():
                self._cache.store(stage, usage)
                if finish in ("length", "content_filter"):
                    raise CallFailed(f"the model wrote nothing (finish_reason: {finish})")
                raise BadResponse("the response holds no answer")
            return run.redact(text), usage, finish == "length"

        most = prices.dollars(most_tokens(asked), 0, self.chat_endpoint.max_tokens)
        return await run.post("/chat/completions", body, most, read)

    # -- embeddings ---------------------------------------------------------------------------

    def embed(self, texts: Sequence[str], stage: str) -> tuple[np.ndarray, dict[int, str]]:
        """Turn texts into vectors; blocks until done.

        A batch that is refused is halved, so that a bad text fails alone.

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
        endpoint, prices = self.embedding_endpoint, self.embedding_endpoint.prices
        keys = [text_key(text, endpoint) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        found = self._known_vectors(distinct)
        known = frozenset(found)
        lost = {key: "the text is empty" for key, text in distinct.items() if not text.strip()}
        missing = [key for key in distinct if key not in known and key not in lost]

        async def embed(batch: list[bytes], run: Run) -> None:
            asked = [distinct[key] for key in batch]

            def read(payload: dict) -> None:
                usage = Usage.reported(payload, prices, "".join(asked), "")
                run.pay(usage)
                vectors = {}
                try:
                    rows = read_vectors(payload, len(batch), self._size(found))
                    vectors = dict(zip(batch, rows, strict=True))
                finally:
                    self._cache.store(stage, usage, vectors=vectors)
                found.update(vectors)

            most = prices.dollars(sum(map(most_tokens, asked)))
            try:
                await run.post("/embeddings", embedding_body(asked, endpoint), most, read)
            except CallFailed as failure:
                if len(batch) == 1 or not failure.refused:
                    lost.update(dict.fromkeys(batch, str(failure)))
                    return
                half = len(batch) // 2
                for part in (batch[:half], batch[half:]):
                    await embed(part, run)

        size = endpoint.batch_size
        batches = [missing[start : start + size] for start in range(0, len(missing), size)]
        try:
            self._work(endpoint, batches, embed, stage)
        finally:
            done = [lost.get(key) for key in keys if key in found or key in lost]
            self._count(stage, done, sum(key in known for key in keys))
        return self._rows(keys, found), {n: lost[key] for n, key in enumerate(keys) if key in lost}

    def _known_vectors(self, keys: Mapping[bytes, str]) -> dict[bytes, np.ndarray]:
        found = self._cache.vectors(keys)
        if len({len(vector) for vector in found.values()}) > 1:
            raise DataError(
                f"the LLM cache {self._cache.path} holds vectors of several sizes under the name "
                f"'{self.embedding_endpoint.model}': give each model a different name, or name "
                "another file"
            )
        return found

    def _size(self, found: Mapping[bytes, np.ndarray]) -> int | None:
        """Size of all vectors, if it is known."""
        return next(map(len, found.values()), self.embedding_endpoint.dimensions)

    def _rows(self, keys: Sequence[bytes], found: Mapping[bytes, np.ndarray]) -> np.ndarray:
        """One row per key, zero where there is no vector."""
        out = np.zeros((len(keys), self._size(found) or 0), dtype=np.float32)
        for row, key in zip(out, keys, strict=True):
            row[:] = found.get(key, 0.0)
        return out

    # -- costs --------------------------------------------------------------------------------

    def costs(self) -> dict[str, dict[str, float]]:
        """Counts and costs of each stage.

        Returns
        -------
        dict
            Stage -> ``requests`` = ``answered`` + ``failed``; of the answered ones
            ``from_cache``; ``retries`` and ``reasks``; ``prompt_tokens`` (of which
            ``cached_tokens`` at the vendor), ``completion_tokens`` and ``dollars`` paid through
            this client; ``total_dollars`` ever paid into this cache. For embeddings a request is
            a text.
        """
        ever = self._cache.dollars()
        return {
            stage: {name: self._stages[stage][name] for name in _COUNTS}
            | {"total_dollars": ever.get(stage, 0.0)}
            for stage in dict.fromkeys([*self._stages, *ever])
        }

    def _count(self, stage: str, errors: Sequence[str | None], n_cached: int) -> None:
        failed = [error for error in errors if error is not None]
        self._stages[stage].update(
            requests=len(errors),
            failed=len(failed),
            answered=len(errors) - len(failed),
            from_cache=n_cached,
        )
        if failed:
            getLogger(__name__).warning(
                "%s: %d requests got no answer, the first: %s", stage, len(failed), failed[0]
            )

    def _work(self, endpoint: Endpoint, jobs: Sequence, do: Callable, stage: str) -> None:
        async def work() -> None:
            spent = sum(counts["dollars"] for counts in self._stages.values())
            run = Run(endpoint, self.settings, self._stages[stage], spent)
            with tqdm(total=len(jobs), desc=stage, unit="call", disable=None) as bar:

                async def one(job: Any) -> None:
                    await do(job, run)
                    bar.update()

                await run.work_through(jobs, one)

        if not jobs:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(work())
        else:  # within a notebook's event loop
            with ThreadPoolExecutor(max_workers=1) as aside:
                aside.submit(asyncio.run, work()).result()


# -- bodies of requests, and what responses hold ----------------------------------------------


def chat_body(request: ChatRequest, endpoint: ChatEndpoint) -> dict[str, Any]:
    """Request for one completion."""
    body: dict[str, Any] = {
        "model": endpoint.model,
        endpoint.max_tokens_key: endpoint.max_tokens,
        **({} if endpoint.temperature is None else {"temperature": endpoint.temperature}),
        **({"response_format": {"type": "json_object"}} if endpoint.json_mode else {}),
        **endpoint.extra,
    }
    body["messages"] = _messages(system=request.system, user=request.user)
    return body


def _messages(**contents: str) -> list[dict[str, str]]:
    return [{"role": role, "content": well_formed(said)} for role, said in contents.items() if said]


def embedding_body(texts: Sequence[str], endpoint: EmbeddingEndpoint) -> dict[str, Any]:
    """Request to embed a batch."""
    return {
        "model": endpoint.model,
        "input": [well_formed(text) for text in texts],
        "encoding_format": "base64",  # exact, and a quarter of the size of figures
        **({} if endpoint.dimensions is None else {"dimensions": endpoint.dimensions}),
        **endpoint.extra,
    }


def content_key(endpoint: Endpoint, body: dict[str, Any]) -> bytes:
    """Content address of a request."""
    return bytes.fromhex(value_sha256({"base_url": endpoint.base_url.rstrip("/"), "body": body}))


def text_key(text: str, endpoint: EmbeddingEndpoint) -> bytes:
    """Content key of one text to embed, whatever its batch."""
    return content_key(endpoint, embedding_body([text], endpoint))


def read_vectors(payload: dict, n: int, size: int | None) -> np.ndarray:
    """Read the vectors of a response, in the order of its texts: float32 [n, d]."""
    try:
        entries = {
            int(entry.get("index", place)): entry["embedding"]
            for place, entry in enumerate(payload["data"])
        }
        rows = np.stack([_vector(entries[index]) for index in range(n)])  # [n, d]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadResponse("the response does not hold one vector for each text") from error
    if len(entries) != n or not rows.size:
        raise BadResponse("the response does not hold one vector for each text")
    if size is not None and rows.shape[1] != size:
        raise BadResponse(f"the vectors have {rows.shape[1]} dimensions, not {size}")
    if not np.isfinite(rows).all():
        raise BadResponse("the vectors hold values that are not numbers")
    return rows


def _vector(entry: Any) -> np.ndarray:
    if isinstance(entry, str):
        return np.frombuffer(base64.b64decode(entry, validate=True), dtype="<f4")
    return np.asarray(entry, dtype=np.float32).reshape(-1)
