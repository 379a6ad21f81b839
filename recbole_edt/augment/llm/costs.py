"""Tokens and dollars of calls, and the limit of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from recbole_edt.augment.llm.settings import Prices
from recbole_edt.errors import EDTError

_FRAME_TOKENS = 16  # about what a vendor adds around the messages of a call


class CostLimitError(EDTError):
    """The next request could have cost more than ``max_cost`` leaves."""


class Usage(NamedTuple):
    """Tokens of a call and their price; ``prompt_tokens`` include ``cached_tokens``."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    dollars: float

    @classmethod
    def reported(cls, payload: Mapping[str, Any], prices: Prices, asked: str, said: str) -> Usage:
        """Usage that a response reports, otherwise estimated from the texts.

        Vendors name the prompt tokens they had seen in two ways: OpenAI in
        ``prompt_tokens_details.cached_tokens``, DeepSeek in ``prompt_cache_hit_tokens``.
        """

        def tokens(source: Any, key: str, otherwise: int) -> int:
            value = source.get(key) if isinstance(source, Mapping) else None
            return value if isinstance(value, int) and 0 <= value < 2**32 else otherwise

        usage = payload.get("usage")
        details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
        prompt = tokens(usage, "prompt_tokens", estimated_tokens(asked))
        completion = tokens(usage, "completion_tokens", estimated_tokens(said) if said else 0)
        seen = tokens(usage, "prompt_cache_hit_tokens", 0) or tokens(details, "cached_tokens", 0)
        cached = min(prompt, seen)
        return cls(prompt, cached, completion, prices.dollars(prompt, cached, completion))


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: English has some four bytes to a token."""
    return -(-len(text.encode("utf-8", "replace")) // 4) + _FRAME_TOKENS


def most_tokens(text: str) -> int:
    """As many tokens as a text can have: no tokenizer makes more than one of a byte."""
    return len(text.encode("utf-8", "replace")) + 4 * _FRAME_TOKENS


class Budget:
    """The dollars of one run: a call reserves the most it can cost before it is made."""

    def __init__(self, limit: float | None, spent: float) -> None:
        self.limit = float("inf") if limit is None else limit
        self.spent = spent
        self._reserved: list[float] = []
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def reserve(self, dollars: float) -> AsyncIterator[None]:
        """Reserve the most a call can cost; wait while running calls may yet leave room for it."""

        def fits() -> bool:
            return self.spent + sum(self._reserved) + dollars <= self.limit

        async with self._changed:
            await self._changed.wait_for(lambda: fits() or not self._reserved)
            if not fits():
                raise CostLimitError(
                    f"stopped at {self.spent:.4f} of {self.limit:.4f} dollars, as the next request "
                    f"could cost {dollars:.4f}: all answers are kept; raise max_cost to go on"
                )
            self._reserved.append(dollars)
        try:
            yield
        finally:
            self._reserved.remove(dollars)
            async with self._changed:
                self._changed.notify_all()
