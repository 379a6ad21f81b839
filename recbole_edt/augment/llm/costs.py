"""Tokens and dollars of calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from recbole_edt.augment.llm.payload import within
from recbole_edt.augment.llm.settings import Prices

_FRAME_TOKENS = 16  # about what a vendor adds around the messages of a call
FAULT = "fault: "
"""Begins the name of a count of faults of one kind."""


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

        def tokens(otherwise: int, *path: str) -> int:
            value = within(payload, "usage", *path)
            return value if isinstance(value, int) and 0 <= value < 2**32 else otherwise

        prompt = tokens(estimated_tokens(asked), "prompt_tokens")
        completion = tokens(estimated_tokens(said) if said else 0, "completion_tokens")
        by_openai = tokens(0, "prompt_tokens_details", "cached_tokens")
        seen = tokens(0, "prompt_cache_hit_tokens") or by_openai
        cached = min(prompt, seen)
        return cls(prompt, cached, completion, prices.dollars(prompt, cached, completion))


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: English has some four bytes to a token."""
    return -(-len(text.encode("utf-8", "replace")) // 4) + _FRAME_TOKENS


def most_tokens(text: str) -> int:
    """As many tokens as a text can have: no tokenizer makes more than one of a byte."""
    return len(text.encode("utf-8", "replace")) + 4 * _FRAME_TOKENS
