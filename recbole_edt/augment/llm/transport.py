"""One call to an endpoint, repeated until it succeeds, fails for good, or ends the run."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from recbole_edt.augment.llm.costs import Budget
from recbole_edt.augment.llm.settings import Endpoint, LLMSettings
from recbole_edt.errors import ConfigError, EDTError

T = TypeVar("T")

_STAGGER_S = 0.002
"""Between the starts of two workers. Calls that start together end together, and each then waits
for all the others to be read: spread out, 64 calls of 200 ms run at 0.94 instead of 0.91 of the
ideal rate."""
LOST_IN_A_ROW = 50
"""So many requests lost one after the other, with no success between, end the run."""
_TRANSIENT = {408, 409, 425, 429}
_SHORTEST_SECRET = 8
"""A shorter "key" is a word such as EMPTY or ollama, which answers may well hold."""
_LONG_PART = 12
"""From this length on, a part of the address's path may be a key; "v1" and "openai" are none."""
_KEYLIKE = re.compile(r"\b(?:sk|pk)-[\w*.-]{4,}|\bBearer\s+\S+", re.IGNORECASE)
_TALKATIVE = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")


class CallFailed(Exception):
    """A request that failed for good; one line."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class BadResponse(Exception):
    """A response that arrived but holds nothing of use; a repeat may help."""


class EndpointError(EDTError):
    """The endpoint cannot serve this run: no credit left, or not to be reached."""


class Halted(Exception):
    """The run has been ended by another worker."""


class Run:
    """What the workers of one run share: the money, and the reason to stop."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.retries = 0
        self._reason: EDTError | None = None
        self._halted = asyncio.Event()
        self._lost_in_a_row = 0

    def succeeded(self) -> None:
        """Note that the endpoint still answers."""
        self._lost_in_a_row = 0

    def lost(self, reason: str) -> None:
        """Note a request that its endpoint would not serve, and stop when that is all there is."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= LOST_IN_A_ROW:
            raise EndpointError(
                f"{LOST_IN_A_ROW} requests in a row were lost, the last one thus: {reason} "
                "(all answers so far are kept; run again to go on)"
            )

    def check(self) -> None:
        """Leave when the run has been ended."""
        if self._reason is not None:
            raise Halted

    async def sleep(self, seconds: float) -> None:
        """Wait, unless the run is ended meanwhile."""
        try:
            await asyncio.wait_for(self._halted.wait(), seconds)
        except asyncio.TimeoutError:
            return
        raise Halted

    async def work_through(
        self, jobs: Sequence[T], do: Callable[[T], Awaitable[None]], workers: int
    ) -> None:
        """Do all jobs, some at a time; after an error those under way still come to their end."""
        waiting = iter(jobs)

        async def work(number: int) -> None:
            await asyncio.sleep(number * _STAGGER_S)
            for job in waiting:
                try:
                    self.check()
                    await do(job)
                except Halted:
                    return
                except EDTError as error:
                    self._reason = self._reason or error
                    self._halted.set()

        await asyncio.gather(*(work(n) for n in range(min(workers, len(jobs)))))
        if self._reason is not None:
            raise self._reason


class Caller:
    """Calls to one endpoint through the ``openai`` package."""

    def __init__(self, endpoint: Endpoint, settings: LLMSettings, run: Run) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self.run = run
        self._key = endpoint.key()
        # As many kept connections as calls under way; the type comes from whichever HTTP library
        # this version of openai is built on.
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(
            max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency
        )
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=endpoint.timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(limits=limits, timeout=endpoint.timeout_s),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def redact(self, text: str) -> str:
        """Take the key out of what a server said: some repeat what they were sent."""
        if len(self._key) >= _SHORTEST_SECRET:
            text = text.replace(self._key, "[key]")
        return text

    async def post(
        self, path: str, body: Mapping[str, Any], most_dollars: float, read: Callable[[dict], T]
    ) -> T:
        """Make a call, and repeat it while that may help.

        Raises
        ------
        CallFailed
            If the endpoint refuses the request or all repeats fail.
        EDTError
            If the run cannot go on.
        """
        attempt = 0
        while True:
            try:
                async with self.run.budget.room_for(most_dollars):
                    self.run.check()
                    out = read(await self._once(path, body))
                self.run.succeeded()
                return out
            except (openai.OpenAIError, asyncio.TimeoutError, BadResponse, ValueError) as error:
                reason = self._reason(error)
                self._refuse_for_good(error, reason)
                wait = self._wait(error, attempt)
                if not _is_transient(error) or attempt >= self._settings.retries:
                    self.run.lost(reason)
                    raise CallFailed(reason, refused=not _is_transient(error)) from None
            attempt += 1
            self.run.retries += 1
            await self.run.sleep(wait)

    async def _once(self, path: str, body: Mapping[str, Any]) -> dict:
        call = self._client.post(path, cast_to=object, body=dict(body))
        payload = await asyncio.wait_for(call, self._endpoint.timeout_s)
        if not isinstance(payload, dict):  # a page of a gateway, for one
            raise BadResponse("the response is no JSON object")
        return payload

    def _wait(self, error: Exception, attempt: int) -> float:
        """Seconds to wait before the next attempt."""
        asked, longest = _retry_after(error), self._settings.max_wait_s
        if asked is not None and asked > longest:
            raise EndpointError(
                f"{self._endpoint.place} asks to wait {asked:.0f} s, longer than max_wait_s: "
                "run again later, all answers are kept"
            )
        doubled = self._settings.backoff_s * 2 ** min(attempt, 30)
        jittered = min(doubled, longest) * random.uniform(0.5, 1.0)
        return max(asked or 0.0, jittered)

    def _refuse_for_good(self, error: Exception, reason: str) -> None:
        """Raise when no request to this endpoint can succeed."""
        status, end = _status(error), self._endpoint
        if status in (401, 403):  # what such a server says may hold parts of the key
            what = f"the key in {end.key_env}" if end.key_env else "a call without a key"
            raise ConfigError(f"{end.place} refuses {what} (HTTP {status})") from None
        if status == 404:
            raise ConfigError(
                f"{end.place} knows no model '{end.model}' or is no OpenAI API ({reason})"
            ) from None
        no_credit = isinstance(error, openai.APIError) and error.code == "insufficient_quota"
        if status == 402 or no_credit:
            raise EndpointError(f"there is no credit left at {end.place} ({reason})") from None

    def _reason(self, error: Exception) -> str:
        """Say on one line what went wrong, without secrets."""
        status = _status(error)
        if isinstance(error, asyncio.TimeoutError | openai.APITimeoutError):
            return f"no answer within {self._endpoint.timeout_s:g} s"
        if isinstance(error, openai.APIConnectionError):
            return f"the connection to {self._endpoint.place} failed"
        said = "the response is not JSON" if isinstance(error, ValueError) else _said(error)
        said = self.redact(" ".join(said.split()))
        for part in urlsplit(self._endpoint.base_url).path.split("/"):
            if len(part) >= _LONG_PART:
                said = said.replace(part, "[path]")
        line = _KEYLIKE.sub("[key]", said)[:300]
        return f"HTTP {status}: {line}" if status else line


def _said(error: Exception) -> str:
    """What the server gives as its reason, where it gives one in the usual place."""
    body = error.body if isinstance(error, openai.APIError) else None
    message = body.get("message") if isinstance(body, Mapping) else None
    return message if isinstance(message, str) and message else str(error)


def _is_transient(error: Exception) -> bool:
    status = _status(error)
    return status is None or status in _TRANSIENT or status >= 500


def _status(error: Exception) -> int | None:
    return error.status_code if isinstance(error, openai.APIStatusError) else None


def _retry_after(error: Exception) -> float | None:
    """Seconds that the server asks to wait, given as such or as a date."""
    if not isinstance(error, openai.APIStatusError):
        return None
    said = error.response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


@asynccontextmanager
async def opened(endpoint: Endpoint, settings: LLMSettings, run: Run) -> AsyncIterator[Caller]:
    """Connect to an endpoint for the length of a block."""
    caller = Caller(endpoint, settings, run)
    for name in _TALKATIVE:  # they log every call, with the address
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        yield caller
    finally:
        await caller.close()
