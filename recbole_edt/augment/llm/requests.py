"""What is asked of a chat model, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recbole_edt.augment.llm.reply import Reply


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model whose answer must be JSON."""

    system: str  # The two messages. With JSON mode on, vendors want the word JSON in one of them
    user: str
    reply: type[Reply]  # What the answer must be
    # Makes up an answer of the usual length, for estimates; it is never sent
    likely: Callable[[], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Answer:
    """What a request came to: a value, or one line that says why there is none."""

    value: dict[str, Any] | None = None  # The fields of the request's reply
    error: str | None = None  # Why there is no value
    cached: bool = False  # The value was in the cache before it was asked for
