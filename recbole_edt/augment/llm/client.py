"""Asks language models many things in parallel, and each of them once."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_edt.augment.llm.batch import Batches
from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.chat import Answer, Asking, ChatRequest, chat_body, progress
from recbole_edt.augment.llm.costs import FAULT, Usage
from recbole_edt.augment.llm.dialect import Dialect
from recbole_edt.augment.llm.embedding import Embedding, embedding_body, text_key
from recbole_edt.augment.llm.progress import Progress
from recbole_edt.augment.llm.reading import Mismatch, read_message
from recbole_edt.augment.llm.settings import ChatEndpoint, EmbeddingEndpoint, Endpoint, LLMSettings
from recbole_edt.augment.llm.transport import (
    CallFailed,
    EndpointError,
    ModelChanged,
    Run,
    UnreachableError,
)
from recbole_edt.errors import ConfigError, DataError

_REQUESTS = ("requests", "answered", "from_cache", "failed")
_PAID = ("calls", "retries", "reasks", "prompt_tokens", "cached_tokens", "completion_tokens")
_TINY = "Reply with OK."
_TINY_TOKENS = 16
_RETRIES_AT_FIRST = 2
_NAMED = 3  # texts that were cut


class LLMClient(AbstractContextManager["LLMClient"]):
    """Asks chat and embedding models, many requests at a time, and never the same one twice.

    Use it as a context manager. A request that cannot be sent or is answered badly comes back with
    its reason. Errors that concern every request are raised: nothing listens at the address, a
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
        self._stages: dict[str, Counter[str]] = defaultdict(Counter)  # of this run's requests
        self._unsaved: dict[str, Counter[str]] = defaultdict(Counter)
        self._spent = 0.0  # dollars, through this client
        self._dialects: dict[str, Dialect] = {}
        self._unreachable: dict[str, UnreachableError] = {}

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

    # -- the endpoint -------------------------------------------------------------------------

    def check(self, kinds: Iterable[str]) -> None:
        """Ask endpoints, "chat" or "embedding", whether they can serve this run.

        Raises
        ------
        EDTError
            If one of them cannot: one line that names what to start or change.
        """
        for kind in kinds:
            self.dialect(self.chat_endpoint if kind == "chat" else self.embedding_endpoint)

    def models(self) -> dict[str, str]:
        """Name the models that were asked: endpoint -> model, and who it says it is."""
        ends = (self.settings.chat, self.settings.embedding)
        known = ((end.kind, self._dialects.get(end.address)) for end in ends if end)
        return {kind: f"{one.model} ({one.named})" for kind, one in known if one}

    def dialect(self, endpoint: Endpoint) -> Dialect:
        """What is known of an endpoint; the first time, it is asked.

        Raises
        ------
        EDTError
            If it cannot serve this run: one line that names what to start or change. An endpoint
            that has served this cache before may be away while the cache has all answers.
        """
        address = endpoint.address
        if address not in self._dialects:
            kept = self._kept_dialect(endpoint)
            found: list[Dialect] = []
            try:
                _in_loop(self._meet(endpoint, kept, found))
            except UnreachableError as error:
                if kept is None:
                    raise
                self._unreachable[address] = error
            dialect = found[0] if found else kept
            assert dialect is not None
            if kept is not None and kept.identity != dialect.identity:
                getLogger(__name__).warning(
                    "another model answers as '%s' at %s than before (%s, now %s): what the other "
                    "one answered is left aside",
                    dialect.model, endpoint.place, kept.named, dialect.named,
                )  # fmt: skip
            self._dialects[address] = dialect
            self._save(endpoint)
        return self._dialects[address]

    def _kept_dialect(self, endpoint: Endpoint) -> Dialect | None:
        kept = self._cache.dialect(endpoint.address)
        return Dialect.model_validate_json(kept) if kept else None

    def _save(self, endpoint: Endpoint) -> None:
        dialect = self._dialects[endpoint.address]
        self._cache.keep_dialect(endpoint.address, dialect.model_dump_json())

    async def _meet(self, endpoint: Endpoint, kept: Dialect | None, found: list[Dialect]) -> None:
        """Find the model in the list of models; make a tiny request if that is not enough."""
        dialect = Dialect.of(endpoint)
        counts: Counter[str] = self._unsaved["check"]
        run = Run(endpoint, self.settings, dialect, counts, self._spent)
        async with run.client:
            listed = await run.listed_models()
            if listed:
                dialect.find(listed, endpoint)
            if kept and listed and (kept.model, kept.served) == (dialect.model, dialect.served):
                found.append(kept)
                return
            if not dialect.model:
                raise ConfigError(
                    f"{endpoint.place} does not tell which models it has: set {endpoint.kind}.model"
                )
            found.append(dialect)

            def read(payload: dict[str, Any]) -> None:
                run.pay(Usage.reported(payload, endpoint.prices, _TINY, ""))
                name = payload.get("model")
                dialect.answers_as = name if isinstance(name, str) else ""

            path, body = _tiny(endpoint, dialect)
            try:
                await run.call(path, body, 0.0, read, _RETRIES_AT_FIRST)
            except CallFailed as failure:  # the first real request will tell more
                if failure.refusal.is_no_api:
                    raise EndpointError(
                        f"{endpoint.place} answers, but not as an OpenAI API does ({failure}): "
                        f"correct {endpoint.kind}.base_url, which mostly ends in /v1"
                    ) from None
            self._keep("check")

    # -- chat ---------------------------------------------------------------------------------

    def chat(self, requests: Sequence[ChatRequest], stage: str) -> list[Answer]:
        """Answer all requests; blocks until done."""
        endpoint = self.chat_endpoint
        while True:
            before = self._stages[stage].copy()
            try:
                return self._chat(requests, stage, endpoint, self.dialect(endpoint))
            except ModelChanged as change:
                self._stages[stage] = before
                self._rename(endpoint, str(change))

    def _chat(
        self, requests: Sequence[ChatRequest], stage: str, endpoint: ChatEndpoint, dialect: Dialect
    ) -> list[Answer]:
        keys = [request.key(endpoint, dialect) for request in requests]
        asked = dict(zip(keys, requests, strict=True))
        texts, answers = self._known_answers(asked)
        known = frozenset(answers)

        async def ask(asking: Asking, key: bytes) -> CallFailed | None:
            try:
                answers[key] = await asking.answer(key, asked[key], texts)
            except CallFailed as failure:
                answers[key] = Answer(error=str(failure))
                if key == missing[0] and failure.refused and failure.refusal.is_too_large:
                    raise EndpointError(
                        f"the longest prompt of stage {stage} does not fit the model at "
                        f"{endpoint.place} ({failure}): give it a longer context, or lower "
                        "chat.max_tokens"
                    ) from None
                return failure
            return None

        missing = [key for key in asked if key not in known]
        if missing:  # a context that is too small shows at once
            longest = max(missing, key=lambda key: len(asked[key].user))
            missing.insert(0, missing.pop(missing.index(longest)))

        def begin(run: Run) -> tuple[list[bytes], Callable[[bytes], Awaitable[CallFailed | None]]]:
            asking = Asking(endpoint, self.settings.asks, run, partial(self._keep, stage))
            return missing, partial(ask, asking)

        def begin_batches(run: Run) -> tuple[Iterator[list[bytes]], Callable]:
            asking = Asking(endpoint, self.settings.asks, run, partial(self._keep, stage))
            take = partial(self._take_batch, stage, endpoint, run, asking, asked, texts)
            batches = Batches(endpoint, self.settings, run, self._cache, stage, take)

            def jobs() -> Iterator[list[bytes]]:
                yield missing[:1]
                rest = (key for key in missing[1:] if key not in texts)
                yield from map(list, batches.split({key: asking.body(asked[key]) for key in rest}))

            async def do(job: list[bytes]) -> CallFailed | None:
                if job == missing[:1]:  # by itself: it finds out how the endpoint wants to be asked
                    await batches.resume()
                    return await ask(asking, job[0])
                await batches.send({key: asking.body(asked[key]) for key in job})
                return None

            return jobs(), do

        try:
            if missing and self.settings.batch:
                self._work(endpoint, stage, len(missing), begin_batches)
                steps = {key: progress(asked[key], key, texts) for key in missing}
                answers |= {key: Answer(step.value) for key, step in steps.items() if not step.key}
                missing = [key for key in missing if key not in answers]
            if missing:
                self._work(endpoint, stage, len(missing), begin)
        finally:
            done = [answers[key] for key in keys if key in answers]
            self._count(stage, [one.error for one in done], sum(key in known for key in keys))
        return done

    def _known_answers(
        self, requests: Mapping[bytes, ChatRequest]
    ) -> tuple[dict[bytes, str], dict[bytes, Answer]]:
        """What the cache holds: texts, and the answers that they make up."""
        texts = self._cache.answers(requests)
        steps = [progress(requests[key], key, texts) for key in texts]
        texts |= self._cache.answers(step.key for step in steps if step.key)
        steps_now = {key: progress(requests[key], key, texts) for key in requests if key in texts}
        return texts, {
            key: Answer(step.value, cached=True) for key, step in steps_now.items() if not step.key
        }

    def _take_batch(
        self,
        stage: str,
        endpoint: ChatEndpoint,
        run: Run,
        asking: Asking,
        asked: Mapping[bytes, ChatRequest],
        texts: dict[bytes, str],
        file: str,
        responses: Mapping[bytes, dict[str, Any]],
    ) -> None:
        """Keep what a batch has answered; what cannot be used is asked for directly."""
        found: dict[bytes, str] = {}
        for key, payload in responses.items():
            said = read_message(payload)
            usage = Usage.reported(payload, endpoint.prices, "", said.text)
            run.pay(usage._replace(dollars=usage.dollars * endpoint.prices.batch))
            try:
                if key in asked:
                    asking.check(said, asked[key], asked[key].n)
                found[key] = run.redact(said.text)
            except Mismatch as mismatch:
                run.counts[FAULT + mismatch.fault] += 1
        texts.update(found)
        self._keep(stage, answers=found, file=file)

    def _rename(self, endpoint: Endpoint, name: str) -> None:
        dialect = self.dialect(endpoint)
        getLogger(__name__).warning(
            "the model '%s' at %s now answers as '%s', before as '%s': what the other one answered "
            "is left aside", dialect.model, endpoint.place, name, dialect.answers_as,
        )  # fmt: skip
        dialect.answers_as = name
        self._save(endpoint)

    # -- embeddings ---------------------------------------------------------------------------

    def embed(self, texts: Sequence[str], stage: str) -> tuple[np.ndarray, dict[int, str]]:
        """Turn texts into vectors; blocks until done.

        A batch that is refused is split, so that a bad text fails alone. A text that is too long
        for the model is cut, and a warning names it.

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
        endpoint = self.embedding_endpoint
        while True:
            dialect, before = self.dialect(endpoint), self._stages[stage].copy()
            keys = [text_key(text, endpoint, dialect) for text in texts]
            try:
                found, lost = self._embed(dict(zip(keys, texts, strict=True)), keys, stage)
            except ModelChanged as change:
                self._stages[stage] = before
                self._rename(endpoint, str(change))
            else:
                failures = {n: lost[key] for n, key in enumerate(keys) if key in lost}
                return self._rows(keys, found), failures

    def _embed(
        self, distinct: dict[bytes, str], keys: Sequence[bytes], stage: str
    ) -> tuple[dict[bytes, np.ndarray], dict[bytes, str]]:
        found = self._known_vectors(distinct)
        known = frozenset(found)
        lost = {key: "the text is empty" for key, text in distinct.items() if not text.strip()}
        missing = [key for key in distinct if key not in known and key not in lost]
        cut: dict[bytes, str] = {}

        def begin(run: Run) -> tuple[Iterable[list[bytes]], Callable]:
            keep = partial(self._keep, stage)
            one = Embedding(self.embedding_endpoint, run, keep, distinct, found, lost, cut)
            return one.batches(missing), one.embed

        try:
            if missing:
                self._work(self.embedding_endpoint, stage, len(missing), begin)
        finally:
            done = [lost.get(key) for key in keys if key in found or key in lost]
            self._count(stage, done, sum(key in known for key in keys))
            if cut:
                shown = (f"'{distinct[key][:40]}...' to {len(cut[key]):,}" for key in cut)
                getLogger(__name__).warning(
                    "%s: %d texts are longer than the model takes and were cut, such as %s "
                    "characters", stage, len(cut), ", ".join(islice(shown, _NAMED)),
                )  # fmt: skip
        return found, lost

    def _known_vectors(self, keys: Mapping[bytes, str]) -> dict[bytes, np.ndarray]:
        found = self._cache.vectors(keys)
        if len({len(vector) for vector in found.values()}) > 1:
            raise DataError(
                f"the LLM cache {self._cache.path} holds vectors of several sizes under the name "
                f"'{self.embedding_endpoint.model}': give each model a different name, or name "
                "another file"
            )
        return found

    def _rows(self, keys: Sequence[bytes], found: Mapping[bytes, np.ndarray]) -> np.ndarray:
        """One row per key, zero where there is no vector."""
        size = next(map(len, found.values()), self.embedding_endpoint.dimensions)
        out = np.zeros((len(keys), size or 0), dtype=np.float32)
        for row, key in zip(out, keys, strict=True):
            row[:] = found.get(key, 0.0)
        return out

    # -- costs --------------------------------------------------------------------------------

    def costs(self) -> dict[str, dict[str, Any]]:
        """Counts and costs of each stage.

        Returns
        -------
        dict
            Stage -> of this client ``requests`` = ``answered`` + ``failed``, and of the answered
            ones ``from_cache``; over all runs with this cache ``calls`` that were answered,
            ``retries``, ``reasks``, ``prompt_tokens`` (of which ``cached_tokens`` at the vendor),
            ``completion_tokens``, ``dollars``, and ``faults``: kind -> number. For embeddings a
            request is a text.
        """
        ever = self._cache.counts()
        out = {}
        for stage in dict.fromkeys([*self._stages, *ever]):
            counts = Counter(ever.get(stage, {}))
            counts.update(self._unsaved[stage])
            faults = {name: n for name, n in counts.items() if name.startswith(FAULT)}
            out[stage] = {
                **{name: self._stages[stage][name] for name in _REQUESTS},
                **{name: int(counts[name]) for name in _PAID},
                "dollars": float(counts["dollars"]),
                "faults": {name.removeprefix(FAULT): int(faults[name]) for name in sorted(faults)},
            }
        return out

    @property
    def spent(self) -> float:
        """Dollars that this client has paid."""
        return self._spent

    def _keep(self, stage: str, **brought: Any) -> None:
        """Store what a call brought together with the counts that are not stored yet."""
        counts = self._unsaved[stage]
        self._cache.store(stage, counts, **brought)
        counts.clear()

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

    def _work(
        self,
        endpoint: Endpoint,
        stage: str,
        total: int,
        begin: Callable[[Run], tuple[Iterable[Any], Callable[[Any], Awaitable[CallFailed | None]]]],
    ) -> None:
        """Do the jobs that ``begin`` gives, with what does one of them."""
        dialect = self.dialect(endpoint)
        if endpoint.address in self._unreachable:
            raise self._unreachable[endpoint.address]

        async def work() -> None:
            run = Run(endpoint, self.settings, dialect, self._unsaved[stage], self._spent)
            jobs, do = begin(run)
            with Progress(stage, total) as bar:

                async def one(job: Any) -> CallFailed | None:
                    failure = await do(job)
                    bar.update(len(job) if isinstance(job, list) else 1, failure is not None)
                    return failure

                lines = asyncio.create_task(bar.lines())
                try:
                    await run.work_through(jobs, one)
                finally:
                    lines.cancel()
                    self._spent = run.spent

        try:
            _in_loop(work())
        finally:
            self._save(endpoint)
            self._keep(stage)


def _in_loop(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
    else:  # within a notebook's event loop
        with ThreadPoolExecutor(max_workers=1) as aside:
            aside.submit(asyncio.run, work).result()


def _tiny(endpoint: Endpoint, dialect: Dialect) -> tuple[str, Callable[[], dict[str, Any]]]:
    """Request whose answer costs next to nothing."""
    if isinstance(endpoint, ChatEndpoint):
        chat = endpoint.model_copy(update={"max_tokens": _TINY_TOKENS})
        messages = [{"role": "user", "content": _TINY}]
        return "/chat/completions", lambda: chat_body(messages, None, chat, dialect)
    assert isinstance(endpoint, EmbeddingEndpoint)
    return "/embeddings", lambda: embedding_body([_TINY], endpoint, dialect)
