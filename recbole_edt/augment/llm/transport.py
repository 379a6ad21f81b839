"""Calls to an endpoint, repeated until they succeed, fail for good, or end the run.

A request is sent in another form while the endpoint refuses its form (:meth:`Run._send`), and
again after a failure that may pass (:meth:`Run.repeat`). Above both, ``chat.py`` asks again for
what an answer lacks, and ``client.py`` starts a stage anew if the endpoint answers as another
model.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate, parsedate_to_datetime
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from recbole_edt.augment.llm.costs import Usage
from recbole_edt.augment.llm.dialect import Dialect, read_list
from recbole_edt.augment.llm.payload import read_payload, refusal_within
from recbole_edt.augment.llm.refusals import (
    NO_ANSWER,
    Refusal,
    seconds_of,
    server_words,
    stated_wait,
)
from recbole_edt.augment.llm.settings import Endpoint, LLMSettings
from recbole_edt.errors import ConfigError, EDTError

T = TypeVar("T")

# Between the starts of two workers. Calls that start together end together, and each then waits
# for all the others to be read: spread out, 64 calls of 200 ms run at 0.94 instead of 0.91 of the
# ideal rate.
_STAGGER_S = 0.002
LOST_IN_A_ROW = 50
"""Requests lost one after the other, with no success between, that end the run."""
REFUSED_AT_FIRST = 3
"""Requests that end the run if all are refused with the same words, with no success before, or if
nothing listens any more."""
_GONE = "nothing listens"  # code of such a refusal
# Words of OpenSSL -> what to do
_TLS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "name a file with the certificate of its authority in SSL_CERT_FILE, or another address"
    ),
    "WRONG_VERSION_NUMBER": "if it speaks http and not https, correct the address",
}
_LISTED_WITHIN_S = 10.0  # a list of models takes no computing
# Shorter "keys" such as EMPTY or ollama are placeholders and may occur in answers.
_SHORTEST_SECRET = 8
_LONG_PART = 12  # parts of the address's path from this length on may be a key; "v1" is none
_KEYLIKE = re.compile(r"\b(?:sk|pk)-[\w*.-]{4,}|\bBearer\s+\S+|\S*\*{3,}\S*", re.IGNORECASE)


class CallFailed(Exception):
    """A request that failed for good; one line."""

    def __init__(self, reason: str, refusal: Refusal, is_final: bool) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.is_final = is_final  # the endpoint would refuse it again

    @property
    def kind(self) -> str:
        """Name it in counts of failures."""
        return "refused" if self.is_final else "no answer"


class EndpointError(EDTError):
    """The endpoint cannot serve this run: no credit left, or not to be reached."""


class UnservedError(ConfigError):
    """The endpoint knows no such model, or has no such API."""


class UnreachableError(EndpointError):
    """Nothing answers at the address."""


class CostLimitError(EDTError):
    """The next request could have cost more than ``max_cost`` leaves."""


class Halted(Exception):
    """The run has been ended by another worker."""


class ModelChanged(Exception):
    """Responses name another model than the answers in the cache came from."""


class Run:
    """Calls of one stage to one endpoint through the ``openai`` package.

    ``dialect`` is what is known of the endpoint: calls that are refused before the first success
    change it. ``counts`` receives the stage's counts; ``spent`` dollars were paid before.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: LLMSettings,
        dialect: Dialect,
        counts: Counter[str],
        spent: float,
    ) -> None:
        self.counts, self.dialect = counts, dialect
        self.endpoint, self._settings, self.spent = endpoint, settings, spent
        self._reserved: list[float] = []
        self._released = asyncio.Condition()
        self._stopped_by: Exception | None = None
        self._halted = asyncio.Event()
        self._answered = False
        self._seen_at = monotonic()  # of the last call that was paid
        self._lost: list[str] = []  # in a row
        self._key = endpoint.key()
        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            logger = logging.getLogger(name)  # they log every call, with the address
            logger.setLevel(max(logger.level, logging.WARNING))
        try:
            self.client = openai.AsyncOpenAI(
                api_key=self._key or "none",
                base_url=endpoint.base_url,
                max_retries=0,
                timeout=endpoint.timeout_s,
                http_client=openai.DefaultAsyncHttpxClient(**_connection(endpoint)),
            )
        except (ImportError, OSError, ValueError) as error:
            raise ConfigError(
                "the proxy or certificates that the environment names (ALL_PROXY, HTTPS_PROXY, "
                f"SSL_CERT_FILE, ...) cannot be used: {' '.join(str(error).split())}"
            ) from error

    async def work_through(
        self, jobs: Iterable[T], do: Callable[[T], Awaitable[CallFailed | None]]
    ) -> None:
        """Do all jobs, the first one alone, then some at a time.

        The first one finds out how the endpoint wants to be asked. After an error, running jobs
        finish before it is raised.
        """
        waiting = iter(jobs)

        async def one(job: T) -> CallFailed | None:
            try:
                self._check()
                failure = await do(job)
                if failure is None:
                    self.succeed()
                elif failure.is_final:  # others were counted as they happened
                    self._lose(failure)
                return failure
            except Halted:
                pass
            except (EDTError, ModelChanged) as error:
                self._stop(error)
            return None

        async def work(number: int) -> None:
            await asyncio.sleep(number * _STAGGER_S)
            for job in waiting:
                await one(job)
                if self._halted.is_set():
                    return

        async with self.client:
            for job in waiting:  # one after another while all are refused
                failure = await one(job)
                if failure is None or not failure.is_final or self._answered:
                    break
            if not self._halted.is_set():
                await asyncio.gather(*map(work, range(self._settings.concurrency)))
        if self._stopped_by is not None:
            raise self._stopped_by

    def succeed(self) -> None:
        """Note that something of use was answered."""
        self._lost = []

    def _lose(self, failure: CallFailed) -> None:
        """Note requests lost in a row; raise after too many."""
        self._lost.append(str(failure))
        is_lasting = failure.refusal.code == _GONE or (failure.is_final and not self._answered)
        is_alike = is_lasting and len(set(self._lost)) == 1
        if len(self._lost) >= (REFUSED_AT_FIRST if is_alike else LOST_IN_A_ROW):
            raise EndpointError(
                f"{self.endpoint.place}: {len(self._lost)} {self.endpoint.kind} requests in a "
                f"row were lost, the last one with: {failure} (all answers so far are kept; run "
                "again to go on)"
            )

    def _stop(self, error: Exception) -> None:
        self._stopped_by = self._stopped_by or error
        self._halted.set()

    def _check(self) -> None:
        if self._halted.is_set():
            raise Halted

    def pay(self, usage: Usage) -> None:
        """Enter what a call cost."""
        before, self._seen_at = self._seen_at, monotonic()
        self.counts.update({**usage._asdict(), "calls": 1, "seconds": self._seen_at - before})
        self.spent += usage.dollars

    @asynccontextmanager
    async def reserve(self, dollars: float) -> AsyncIterator[None]:
        """Reserve the most a call can cost; wait while running calls may yet leave room for it."""
        limit = self._settings.max_cost

        def fits() -> bool:
            return limit is None or self.spent + sum(self._reserved) + dollars <= limit

        async with self._released:
            await self._released.wait_for(lambda: fits() or not self._reserved)
            if not fits():
                raise CostLimitError(
                    f"stopped at {self.spent:.4f} of {limit:.4f} dollars, as the next request "
                    f"could cost {dollars:.4f}: all answers are kept; raise max_cost to go on"
                )
            self._reserved.append(dollars)
        try:
            yield
        finally:
            self._reserved.remove(dollars)
            async with self._released:
                self._released.notify_all()

    def redact(self, text: str) -> str:
        """Remove the key from a server's text: some repeat what they were sent."""
        return text.replace(self._key, "[key]") if len(self._key) >= _SHORTEST_SECRET else text

    async def call(
        self,
        path: str,
        body: Callable[[], dict[str, Any]],
        most_dollars: float,
        read: Callable[[dict[str, Any]], T],
        retries: int | None = None,
    ) -> T:
        """Post a body to a path such as ``/embeddings``, and repeat that while it may help.

        ``body`` makes the body as :attr:`dialect` has it now; ``read`` reads the response, and
        raises a ``Refusal`` if it holds nothing of use. The call costs ``most_dollars`` at most.

        Raises
        ------
        CallFailed, EDTError
            If the endpoint refuses the request or all repeats fail; if the run cannot go on.
        ModelChanged
            If the first response names another model than :attr:`dialect` has, or the endpoint
            turns out to be a router.
        """

        async def once() -> T:
            async with self.reserve(most_dollars):
                start: Any = monotonic()
                try:
                    payload = await asyncio.wait_for(
                        self._send(path, body), self.endpoint.timeout_s
                    )
                finally:
                    self.counts["call_seconds"] += monotonic() - start
                out, name = read(payload), payload.get("model")
                is_same = self.dialect.hear(name)
                if not is_same and self.dialect.is_router:
                    self._stop(ModelChanged(name))  # after this answer is kept
                elif not is_same and not self._answered:
                    raise ModelChanged(name)
                return out

        out = await self.repeat(once, retries)
        self._answered = True
        return out

    async def _send(self, path: str, body: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Post a body; until the first success, in other forms while its form is refused."""
        before = dict(self.dialect)
        while True:
            self._check()
            sent = body()
            try:
                payload = read_payload(await self.client.post(path, cast_to=str, body=sent))
                refusal = refusal_within(payload)
                if refusal is None:
                    return payload
            except openai.APIStatusError as error:
                refusal = _refusal_of_status(error)
            if body() != sent:  # another call has found another form meanwhile
                continue
            if self._answered:
                raise refusal
            if not self.dialect.adapt(refusal, sent):
                vars(self.dialect).update(before)  # it was not about the form
                raise refusal

    async def repeat(self, once: Callable[[], Awaitable[T]], retries: int | None = None) -> T:
        """Make a call until it succeeds, is refused, or ``retries`` repeats have failed."""
        attempt = 0
        while True:
            try:
                return await once()
            except (openai.OpenAIError, asyncio.TimeoutError, ValueError) as error:
                refusal = self._refusal(error)
            except Refusal as refused:
                refusal = refused
            self._refuse_for_good(refusal)
            wait = self._wait(refusal, attempt)
            is_final = not refusal.is_passing or refusal.is_too_large
            if is_final or attempt >= (self._settings.retries if retries is None else retries):
                failure = CallFailed(self.describe(refusal), refusal, is_final)
                if not is_final:
                    self._lose(failure)
                raise failure
            attempt += 1
            self.counts["retries"] += 1
            try:
                await asyncio.wait_for(self._halted.wait(), wait)
            except asyncio.TimeoutError:
                continue
            raise Halted

    async def listed_models(self) -> list[dict[str, Any]]:
        """Ask which models there are; empty if the endpoint does not tell.

        Raises
        ------
        UnreachableError
            If nothing answers.
        """
        seconds = min(_LISTED_WITHIN_S, self.endpoint.timeout_s)
        try:
            text = await asyncio.wait_for(self.client.get("/models", cast_to=str), seconds)
            return read_list(json.loads(text))
        except (openai.APIConnectionError, asyncio.TimeoutError) as error:
            is_late = isinstance(error, asyncio.TimeoutError)
            why = f"in {seconds:g} s" if is_late else f"({self.describe(self._refusal(error))})"
            end = self.endpoint
            todo = f"start the {end.kind} server there, or name another address"
            todo = next((one for words, one in _TLS.items() if words in why), todo)
            raise UnreachableError(
                f"{end.place} does not answer {why}: {todo}: --{end.kind}.base_url=..."
            ) from None
        except (openai.OpenAIError, ValueError, RecursionError):
            return []

    def _wait(self, refusal: Refusal, attempt: int) -> float:
        """Seconds to wait before the next attempt."""
        said, longest = refusal.retry_after, self._settings.max_wait_s
        asked = float(said) if re.fullmatch(r"\d+(\.\d+)?", said) else 0.0
        if asked > longest:
            raise EndpointError(
                f"{self.endpoint.place} asks to wait {asked:.0f} s, longer than max_wait_s: "
                "run again later, all answers are kept"
            )
        doubled = self._settings.backoff_s * 2 ** min(attempt, 30)
        return max(asked, min(doubled, longest) * random.uniform(0.5, 1.0))

    def _refuse_for_good(self, refusal: Refusal) -> None:
        """Raise when no request to this endpoint can succeed."""
        status, end, reason = refusal.status, self.endpoint, self.describe(refusal)
        if status in (404, 405, 501):
            raise UnservedError(
                f"{end.place} knows no model '{self.dialect.model}' or has no API for "
                f"{end.kind} requests ({reason}): correct {end.kind}.model or "
                f"{end.kind}.base_url, which mostly ends in /v1"
            )
        if status != 401 and refusal.is_unpaid:
            raise EndpointError(f"there is no credit left at {end.place} ({reason})")
        # once an answer has come, in this run or before, 403 is moderation of one text
        has_answered = self._answered or self.dialect.answers_as
        if status == 401 or (status == 403 and not has_answered):
            what = f"the key in {end.key_env}" if end.key_env else "a call without a key"
            todo = "" if end.key_env else f": name its variable in {end.kind}.key_env"
            raise ConfigError(f"{end.place} refuses {what} ({reason}){todo}")

    def _refusal(self, error: Exception) -> Refusal:
        if isinstance(error, openai.APIStatusError):
            return _refusal_of_status(error)
        if isinstance(error, asyncio.TimeoutError | openai.APITimeoutError):
            return Refusal(f"no answer within {self.endpoint.timeout_s:g} s")
        if isinstance(error, openai.APIConnectionError):
            cause = " ".join(str(error.__cause__ or "").split())
            code = _GONE if type(error.__cause__).__name__ == "ConnectError" else ""
            said = f"the connection to {self.endpoint.place} failed: {cause}".rstrip(": ")
            return Refusal(said, code=code)
        return Refusal("the response is not JSON", NO_ANSWER)

    def describe(self, refusal: Refusal) -> str:
        """Describe a failure in one line, without secrets."""
        said = self.redact(" ".join(refusal.said.split()))
        for part in urlsplit(self.endpoint.base_url).path.split("/"):
            if len(part) >= _LONG_PART:
                said = said.replace(part, "[path]")
        status = f"HTTP {refusal.status}: " if refusal.status not in (None, NO_ANSWER) else ""
        return status + (_KEYLIKE.sub("[key]", said)[:300] or "nothing is said")


def _connection(endpoint: Endpoint) -> dict[str, Any]:
    """Options of the client: a proxy of the environment does not reach servers on this machine."""
    if not endpoint.is_local:
        return {"trust_env": True}
    # without trust_env httpx leaves out SSL_CERT_FILE, too, which OpenSSL reads by itself
    return {"trust_env": False, "verify": ssl.create_default_context()}


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run calls to their end, also within a running event loop, such as a notebook's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as aside:
        return aside.submit(asyncio.run, work).result()


def _refusal_of_status(error: openai.APIStatusError) -> Refusal:
    try:
        body: Any = error.response.text
    except Exception:  # its body was not read; the type depends on the library's version
        body = error.body
    headers = error.response.headers
    milliseconds = headers.get("retry-after-ms")  # Azure
    asked = f"{milliseconds}ms" if milliseconds else headers.get("retry-after", "")
    retry_after = seconds_of(asked) or stated_wait(str(body))
    with suppress(TypeError, ValueError):  # a date, by the server's clock if it says what that is
        now = parsedate_to_datetime(headers.get("date") or formatdate(usegmt=True))
        until = parsedate_to_datetime(retry_after)
        retry_after = str(max((until - now).total_seconds(), 0.0))
    return Refusal(server_words(body), error.status_code, str(error.code or ""), retry_after)
