"""Asks language models many things in parallel, and each of them once."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from logging import getLogger
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from recbole_edt.augment.llm.batch import Batches
from recbole_edt.augment.llm.cache import AnswerCache
from recbole_edt.augment.llm.chat import Answer, Asking, ChatRequest, progress
from recbole_edt.augment.llm.costs import FAULT
from recbole_edt.augment.llm.dialect import Dialect
from recbole_edt.augment.llm.embedding import Embedding, text_key
from recbole_edt.augment.llm.endpoints import Endpoints
from recbole_edt.augment.llm.progress import Progress
from recbole_edt.augment.llm.settings import ChatEndpoint, EmbeddingEndpoint, Endpoint, LLMSettings
from recbole_edt.augment.llm.transport import CallFailed, EndpointError, ModelChanged, Run, in_loop
from recbole_edt.errors import DataError

T = TypeVar("T")

_REQUESTS = ("requests", "answered", "from_cache", "failed")
_PAID = ("calls", "retries", "reasks", "prompt_tokens", "cached_tokens", "completion_tokens")
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
        self._size: int | None = None  # of the vectors so far
        self.endpoints = Endpoints(settings, self._cache)

    def __exit__(self, *_: object) -> None:
        self._cache.close()

    # -- the endpoint -------------------------------------------------------------------------

    def check(self, kinds: Iterable[str]) -> None:
        """Ask endpoints, "chat" or "embedding", whether they can serve this run.

        Raises
        ------
        EDTError
            If one of them cannot: one line that names what to start or change.
        """
        for kind in kinds:
            self.endpoints.dialect(self.settings.endpoint(kind))

    # -- chat ---------------------------------------------------------------------------------

    def chat(self, requests: Sequence[ChatRequest], stage: str) -> list[Answer]:
        """Answer all requests; blocks until done."""
        return self._as_served("chat", stage, partial(self._chat, requests, stage))

    def _as_served(self, kind: str, stage: str, ask: Callable[[Any, Dialect], T]) -> T:
        """Ask, and again if responses name another model than the answers in the cache."""
        endpoint = self.settings.endpoint(kind)
        while True:
            before = self._stages[stage].copy()
            try:
                return ask(endpoint, self.endpoints.dialect(endpoint))
            except ModelChanged as change:
                self._stages[stage] = before
                self.endpoints.rename(endpoint, str(change))

    def _chat(
        self, requests: Sequence[ChatRequest], stage: str, endpoint: ChatEndpoint, dialect: Dialect
    ) -> list[Answer]:
        keys = [request.key(endpoint, dialect) for request in requests]
        asked = dict(zip(keys, requests, strict=True))
        texts, answers = self._known_answers(asked, dialect)
        known = frozenset(answers)
        missing = [key for key in asked if key not in known]
        if missing:  # a context that is too small shows at once
            longest = max(missing, key=lambda key: len(asked[key].user))
            missing.insert(0, missing.pop(missing.index(longest)))

        async def ask(asking: Asking, key: bytes) -> CallFailed | None:
            try:
                answers[key] = await asking.answer(key, asked[key], texts)
            except CallFailed as failure:
                answers[key] = Answer(error=str(failure))
                if key == missing[0] and failure.is_final and failure.refusal.is_too_large:
                    raise EndpointError(
                        f"the longest prompt of stage {stage} does not fit the model at "
                        f"{endpoint.place} ({failure}): give it a longer context, or lower "
                        "chat.max_tokens"
                    ) from None
                return failure
            return None

        def make_asking() -> Asking:
            run, keep = self._open_run(endpoint, stage), partial(self._keep, stage)
            return Asking(endpoint, self.settings.asks, run, keep)

        try:
            if missing and self.settings.batch:
                asking = make_asking()
                batches = Batches(self._cache, stage, asking, asked, texts, self.settings.poll_s)

                async def do(job: list[bytes]) -> CallFailed | None:
                    if job == missing[:1]:
                        await batches.resume()
                        return await ask(asking, job[0])
                    await batches.send(job)
                    return None

                self._work(asking.run, stage, len(missing), batches.jobs(missing), do)
                steps = {key: progress(asked[key], key, texts) for key in missing}
                answers |= {key: Answer(step.value) for key, step in steps.items() if not step.key}
                missing = [key for key in missing if key not in answers]
            if missing:
                asking = make_asking()
                self._work(asking.run, stage, len(missing), missing, partial(ask, asking))
        finally:
            done = [answers[key] for key in keys if key in answers]
            self._count(stage, [one.error for one in done], sum(key in known for key in keys))
        self._tell_failed(stage, [one.error for one in done])
        return done

    def _known_answers(
        self, requests: Mapping[bytes, ChatRequest], dialect: Dialect
    ) -> tuple[dict[bytes, str], dict[bytes, Answer]]:
        """What the cache holds: texts, and the answers that they make up."""
        texts: dict[bytes, str] = {}
        answers: dict[bytes, Answer] = {}
        endpoint = self.settings.endpoint("chat")
        for one in dialect.known_as:
            missing = {key: request for key, request in requests.items() if key not in answers}
            asked = {request.key(endpoint, one): key for key, request in missing.items()}
            held = self._cache.answers(asked)
            steps = [progress(requests[asked[key]], key, held) for key in held]
            texts |= held | self._cache.answers(step.key for step in steps if step.key)
            for key in held:
                step = progress(requests[asked[key]], key, texts)
                if not step.key:
                    answers[asked[key]] = Answer(step.value, cached=True)
        return texts, answers

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
        return self._as_served("embedding", stage, partial(self._embed, texts, stage))

    def _embed(
        self, texts: Sequence[str], stage: str, endpoint: EmbeddingEndpoint, dialect: Dialect
    ) -> tuple[np.ndarray, dict[int, str]]:
        keys = [text_key(text, endpoint, dialect) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        found = self._known_vectors(distinct, dialect)
        known = frozenset(found)
        lost = {key: "the text is empty" for key, text in distinct.items() if not text.strip()}
        missing = [key for key in distinct if key not in known and key not in lost]
        cut: dict[bytes, str] = {}
        try:
            if missing:
                run, keep = self._open_run(endpoint, stage), partial(self._keep, stage)
                size = self._size or endpoint.dimensions
                one = Embedding(endpoint, run, keep, distinct, found, lost, cut, size)
                self._work(run, stage, len(missing), one.batches(missing), one.embed)
        finally:
            errors = [lost.get(key) for key in keys if key in found or key in lost]
            self._count(stage, errors, sum(key in known for key in keys))
            if cut:
                shown = (f"'{distinct[key][:40]}...' to {len(cut[key]):,}" for key in cut)
                getLogger(__name__).warning(
                    "%s: %d texts are longer than the model takes and were cut, such as %s "
                    "characters", stage, len(cut), ", ".join(islice(shown, _NAMED)),
                )  # fmt: skip
        self._tell_failed(stage, errors)
        self._size = next(map(len, found.values()), self._size)
        return self._rows(keys, found), {n: lost[key] for n, key in enumerate(keys) if key in lost}

    def _known_vectors(
        self, texts: Mapping[bytes, str], dialect: Dialect
    ) -> dict[bytes, np.ndarray]:
        endpoint, found = self.settings.endpoint("embedding"), dict[bytes, np.ndarray]()
        for one in dialect.known_as:
            missing = {key: text for key, text in texts.items() if key not in found}
            asked = {text_key(text, endpoint, one): key for key, text in missing.items()}
            found |= {asked[key]: vector for key, vector in self._cache.vectors(asked).items()}
        if len({len(vector) for vector in found.values()}) > 1:
            raise DataError(
                f"the LLM cache {self._cache.path} holds vectors of several sizes under the name "
                f"'{endpoint.model}': give each model a different name, or name another file"
            )
        return found

    def _rows(self, keys: Sequence[bytes], found: Mapping[bytes, np.ndarray]) -> np.ndarray:
        """One row per key, zero where there is no vector."""
        size = next(map(len, found.values()), self.settings.endpoint("embedding").dimensions)
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
            ``completion_tokens``, ``dollars``, and ``faults``: kind -> number; ``seconds`` of
            asking, and the mean number of calls ``in_flight`` in them, of ``concurrency``. For
            embeddings a request is a text.
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
                "seconds": round(counts["seconds"], 1),
                "in_flight": round(counts["call_seconds"] / (counts["seconds"] or 1), 1),
                "concurrency": self.settings.concurrency,
                "faults": {name.removeprefix(FAULT): int(faults[name]) for name in sorted(faults)},
            }
        return out

    def _keep(self, stage: str, **brought: Any) -> None:
        """Store what a call brought together with the counts that are not stored yet."""
        self._cache.store(stage, self._unsaved[stage], **brought)
        self._unsaved[stage].clear()

    def _count(self, stage: str, errors: Sequence[str | None], n_cached: int) -> None:
        n, answered = len(errors), errors.count(None)
        self._stages[stage].update(
            requests=n, failed=n - answered, answered=answered, from_cache=n_cached
        )

    @staticmethod
    def _tell_failed(stage: str, errors: Sequence[str | None]) -> None:
        if failed := [error for error in errors if error is not None]:
            getLogger(__name__).warning(
                "%s: %d requests got no answer, the first: %s", stage, len(failed), failed[0]
            )

    def _open_run(self, endpoint: Endpoint, stage: str) -> Run:
        """Prepare the calls of a stage, which need an endpoint that is not away."""
        dialect = self.endpoints.dialect(endpoint)
        self.endpoints.require(endpoint)
        return Run(endpoint, self.settings, dialect, self._unsaved[stage], self._spent)

    def _work(
        self,
        run: Run,
        stage: str,
        total: int,
        jobs: Iterable[T],
        do: Callable[[T], Awaitable[CallFailed | None]],
    ) -> None:
        """Do jobs, each a key or a list of keys."""

        async def work() -> None:
            with Progress(stage, total) as bar:

                async def one(job: T) -> CallFailed | None:
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
            in_loop(work())
        finally:
            self.endpoints.save(run.endpoint)
            self._keep(stage)
