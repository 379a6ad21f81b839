"""Tokens and dollars: what was paid per stage (table 6), and the limit of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

from recbole_edt.augment.llm.settings import Prices
from recbole_edt.errors import EDTError

_BYTES_PER_TOKEN = 4
_FRAME_TOKENS = 16
"""About what a vendor adds around the messages of a call."""


class CostLimitError(EDTError):
    """The next request could have cost more than ``max_cost`` leaves."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more calls and their price; ``prompt`` includes ``cached``."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    dollars: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            *(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True))
        )

    @classmethod
    def reported(cls, payload: Mapping[str, Any], prices: Prices, asked: str, said: str) -> Usage:
        """What a response says it cost; estimated from the texts where it does not say.

        Vendors name the prompt tokens they had seen in two ways: OpenAI in
        ``prompt_tokens_details.cached_tokens``, DeepSeek in ``prompt_cache_hit_tokens``.
        """
        usage = _mapping(payload.get("usage"))
        details = _mapping(usage.get("prompt_tokens_details"))
        prompt = _tokens(usage.get("prompt_tokens"), estimated_tokens(asked))
        completion = _tokens(usage.get("completion_tokens"), estimated_tokens(said) if said else 0)
        seen = _tokens(usage.get("prompt_cache_hit_tokens"), 0)
        cached = min(prompt, seen or _tokens(details.get("cached_tokens"), 0))
        return cls(prompt, cached, completion, prices.dollars(prompt, cached, completion))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tokens(value: Any, otherwise: int) -> int:
    """A number of tokens, if it can be one."""
    return value if isinstance(value, int) and 0 <= value < 2**32 else otherwise


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: English has some four bytes to a token."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN) + _FRAME_TOKENS


def most_tokens(text: str) -> int:
    """As many tokens as a text can have: no tokenizer makes more than one of a byte."""
    return len(text.encode("utf-8", "replace")) + 4 * _FRAME_TOKENS


@dataclass
class StageCounts:
    """What one stage came to in this run; embeddings count texts as requests."""

    requests: int = 0
    answered: int = 0
    from_cache: int = 0
    failed: int = 0
    retries: int = 0
    reasks: int = 0
    paid: Usage = field(default_factory=Usage)

    def report(self, ever: Usage) -> dict[str, float]:
        """Flatten for a results file; ``total_dollars`` is what the stage ever cost."""
        counts = asdict(self)
        del counts["paid"]
        return counts | {
            "prompt_tokens": self.paid.prompt,
            "cached_tokens": self.paid.cached,
            "completion_tokens": self.paid.completion,
            "dollars": self.paid.dollars,
            "total_dollars": ever.dollars,
        }


class Budget:
    """The dollars of one run: a call sets aside the most it can cost before it is made."""

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit = limit
        self.spent = spent
        self._set_aside: list[float] = []
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def room_for(self, dollars: float) -> AsyncIterator[None]:
        """Set the most a call can cost aside while the call is under way.

        Calls wait while those under way may yet leave room for them.
        """
        if self.limit is None:
            yield
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(dollars) or not self._set_aside)
            if not self._fits(dollars):
                raise CostLimitError(
                    f"stopped at {self.spent:.4f} of {self.limit:.4f} dollars, as the next request "
                    f"could cost {dollars:.4f}: all answers are kept; raise max_cost to go on"
                )
            self._set_aside.append(dollars)
        try:
            yield
        finally:
            self._set_aside.remove(dollars)
            async with self._changed:
                self._changed.notify_all()

    def _fits(self, dollars: float) -> bool:
        return self.limit is None or self.spent + sum(self._set_aside) + dollars <= self.limit
