"""Calls to an endpoint, repeated until they succeed, fail for good, or end the run."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from recbole_edt.augment.llm.costs import Usage
from recbole_edt.augment.llm.settings import Endpoint, LLMSettings
from recbole_edt.errors import ConfigError, EDTError

T = TypeVar("T")

# Between the starts of two workers. Calls that start together end together, and each then waits
# for all the others to be read: spread out, 64 calls of 200 ms run at 0.94 instead of 0.91 of the
# ideal rate.
_STAGGER_S = 0.002
LOST_IN_A_ROW = 50
"""Requests lost one after the other, with no success between, that end the run."""
_TRANSIENT = {408, 409, 425, 429}
# Shorter "keys" such as EMPTY or ollama are placeholders and may occur in answers.
_SHORTEST_SECRET = 8
_LONG_PART = 12  # parts of the address's path from this length on may be a key; "v1" is none
_KEYLIKE = re.compile(r"\b(?:sk|pk)-[\w*.-]{4,}|\bBearer\s+\S+", re.IGNORECASE)


class CallFailed(Exception):
    """A request that failed for good; one line."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class BadResponse(Exception):
    """A response that holds nothing of use; a retry may help."""


class EndpointError(EDTError):
    """The endpoint cannot serve this run: no credit left, or not to be reached."""


class CostLimitError(EDTError):
    """The next request could have cost more than ``max_cost`` leaves."""


class Halted(Exception):
    """The run has been ended by another worker."""


class Run:
    """Calls of one stage to one endpoint through the ``openai`` package.

    Parameters
    ----------
    endpoint, settings
        Where and how to call.
    counts : Counter
        Receives the stage's counts.
    spent : float
        Dollars paid before.
    """

    def __init__(
        self, endpoint: Endpoint, settings: LLMSettings, counts: Counter[str], spent: float
    ) -> None:
        self.counts = counts
        self._endpoint, self._settings, self._spent = endpoint, settings, spent
        self._reserved: list[float] = []
        self._released = asyncio.Condition()
        self._stopped_by: EDTError | None = None
        self._halted = asyncio.Event()
        self._lost_in_a_row = 0
        self._key = endpoint.key()
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=endpoint.timeout_s,
        )

    async def work_through(self, jobs: Sequence[T], do: Callable[[T], Awaitable[None]]) -> None:
        """Do all jobs, some at a time; after an error, running jobs finish first."""
        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            logger = logging.getLogger(name)  # they log every call, with the address
            logger.setLevel(max(logger.level, logging.WARNING))
        waiting = iter(jobs)

        async def work(number: int) -> None:
            await asyncio.sleep(number * _STAGGER_S)
            for job in waiting:
                try:
                    self._check()
                    await do(job)
                except Halted:
                    return
                except EDTError as error:
                    self._stopped_by = self._stopped_by or error
                    self._halted.set()

        async with self._client:
            workers = min(self._settings.concurrency, len(jobs))
            await asyncio.gather(*map(work, range(workers)))
        if self._stopped_by is not None:
            raise self._stopped_by

    def _check(self) -> None:
        if self._halted.is_set():
            raise Halted

    def pay(self, usage: Usage) -> None:
        """Enter what a call cost."""
        self.counts.update(usage._asdict())
        self._spent += usage.dollars

    @asynccontextmanager
    async def _reserve(self, dollars: float) -> AsyncIterator[None]:
        """Reserve the most a call can cost; wait while running calls may yet leave room for it."""
        limit = self._settings.max_cost

        def fits() -> bool:
            return limit is None or self._spent + sum(self._reserved) + dollars <= limit

        async with self._released:
            await self._released.wait_for(lambda: fits() or not self._reserved)
            if not fits():
                raise CostLimitError(
                    f"stopped at {self._spent:.4f} of {limit:.4f} dollars, as the next request "
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
                async with self._reserve(most_dollars):
                    self._check()
                    call = self._client.post(path, cast_to=object, body=dict(body))
                    payload = await asyncio.wait_for(call, self._endpoint.timeout_s)
                    if not isinstance(payload, dict):  # a page of a gateway, for example
                        raise BadResponse("the response is no JSON object")
                    out = read(payload)
                self._lost_in_a_row = 0
                return out
            except (openai.OpenAIError, asyncio.TimeoutError, BadResponse, ValueError) as error:
                reason = self._reason(error)
                self._refuse_for_good(error, reason)
                wait = self._wait(error, attempt)
                status = _status(error)
                is_transient = status is None or status in _TRANSIENT or status >= 500
                if not is_transient or attempt >= self._settings.retries:
                    self._lost_in_a_row += 1
                    if self._lost_in_a_row >= LOST_IN_A_ROW:
                        raise EndpointError(
                            f"{LOST_IN_A_ROW} requests in a row were lost, the last one with: "
                            f"{reason} (all answers so far are kept; run again to go on)"
                        ) from None
                    raise CallFailed(reason, refused=not is_transient) from None
            attempt += 1
            self.counts["retries"] += 1
            try:
                await asyncio.wait_for(self._halted.wait(), wait)
            except asyncio.TimeoutError:
                continue
            raise Halted

    def _wait(self, error: Exception, attempt: int) -> float:
        """Seconds to wait before the next attempt."""
        response = error.response if isinstance(error, openai.APIStatusError) else None
        said = response.headers.get("retry-after", "") if response is not None else ""
        asked = float(said) if re.fullmatch(r"\d+(\.\d+)?", said) else 0.0
        longest = self._settings.max_wait_s
        if asked > longest:
            raise EndpointError(
                f"{self._endpoint.place} asks to wait {asked:.0f} s, longer than max_wait_s: "
                "run again later, all answers are kept"
            )
        doubled = self._settings.backoff_s * 2 ** min(attempt, 30)
        return max(asked, min(doubled, longest) * random.uniform(0.5, 1.0))

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
        """Describe an error in one line, without secrets."""
        if isinstance(error, asyncio.TimeoutError | openai.APITimeoutError):
            return f"no answer within {self._endpoint.timeout_s:g} s"
        if isinstance(error, openai.APIConnectionError):
            return f"the connection to {self._endpoint.place} failed"
        said = "the response is not JSON" if isinstance(error, ValueError) else str(error)
        body = error.body if isinstance(error, openai.APIError) else None
        if isinstance(body, Mapping) and isinstance(body.get("message"), str):
            said = body["message"] or said
        said = self.redact(" ".join(said.split()))
        for part in urlsplit(self._endpoint.base_url).path.split("/"):
            if len(part) >= _LONG_PART:
                said = said.replace(part, "[path]")
        status = _status(error)
        return (f"HTTP {status}: " if status else "") + _KEYLIKE.sub("[key]", said)[:300]


def _status(error: Exception) -> int | None:
    return error.status_code if isinstance(error, openai.APIStatusError) else None
