"""What is asked of a chat model, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model whose answer must be JSON of a given shape.

    Parameters
    ----------
    system, user : str
        The two messages. With JSON mode on, vendors want the word JSON in one of them.
    schema : mapping
        JSON schema of the answer, in the subset of :func:`recbole_edt.augment.llm.schema.conform`.
    max_tokens : int, optional
        Longest answer; the endpoint's own setting when left out.
    likely : callable, optional
        Makes up an answer of the usual length, for estimates; it is never sent.
    """

    system: str
    user: str
    schema: Mapping[str, Any]
    max_tokens: int | None = None
    likely: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Answer:
    """What a request came to: a value, or one line that says why there is none.

    Parameters
    ----------
    value : object, optional
        JSON that keeps the request's schema.
    error : str, optional
        Why there is no value.
    cached : bool
        The value was in the cache before it was asked for.
    """

    value: Any | None = None
    error: str | None = None
    cached: bool = False


def well_formed(text: str) -> str:
    """Replace what no UTF-8 can carry, such as half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
