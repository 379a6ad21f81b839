"""Extract and repair the JSON of a model's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_BRACKET = re.compile(r"[\[{]")
_TOKEN = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*(?P<end>"?))|(?P<extra>,(?=\s*[\]}]))|[\[\]{},]|[^"\[\]{},]+',
    re.DOTALL,
)
_STARTS_TRIED = 20  # text that only looks like JSON must not cost minutes
_DEEPEST = 64
_DECODER = json.JSONDecoder(strict=False, parse_constant=lambda name: None)


class Mismatch(Exception):
    """An answer that is not what was asked for; the message says where and why."""


class Reply(BaseModel, coerce_numbers_to_str=True, str_strip_whitespace=True):
    """Base of the JSON objects that prompts ask for; undeclared fields are dropped."""


def _from_null(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    return "" if value is None else value


def _from_text(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value.strip().lstrip("$").replace(",", "") if isinstance(value, str) else value


def _from_single(value: Any) -> Any:
    if isinstance(value, dict | str):
        return [value] if value else []
    return value


Words = Annotated[str, BeforeValidator(_from_null)]
"""Text; null is empty, a figure is its text."""

Figure = Annotated[float, BeforeValidator(_from_text), Field(ge=0, allow_inf_nan=False)]
"""A number of at least 0, also as text such as "$1,299.50"."""

Several = BeforeValidator(_from_single)
"""Marks a list of which a single element may be given without the list."""


def well_formed(text: str) -> str:
    """Replace what no UTF-8 can carry, such as half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def read_answer(text: str, reply: type[Reply]) -> dict[str, Any]:
    """Read the JSON that a model wrote.

    JSON is found alone, in a code fence, in the middle of a text, and after thoughts in ``<think>``
    tags. Commas before a closing bracket and line breaks within texts are accepted; of JSON that
    breaks off, the unfinished element is dropped and the brackets are closed.

    Returns
    -------
    dict
        The fields of the first such value in the text.

    Raises
    ------
    Mismatch
        If there is none; the message is meant for the model and for the user.
    """
    reason = ""
    for value in _values(_THOUGHTS.sub("", text)):
        try:
            return reply.model_validate(value).model_dump()
        except ValidationError as error:
            reason = reason or _sentence(error)
    raise Mismatch(reason or "there is no JSON in the answer")


def _sentence(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f" {part}" for part in problem["loc"])
    if problem["type"] == "missing":
        return f"the answer lacks{place}"
    said = problem["msg"].removeprefix("Value error, ")
    return f"in the answer{place or ' itself'}: {said[0].lower()}{said[1:]}"


def _values(text: str) -> Iterator[Any]:
    """All values the text may hold, fewest repairs first."""
    start = 0
    for _ in range(_STARTS_TRIED):
        found = _BRACKET.search(text, start)
        if found is None:
            return
        start = found.start()
        try:
            value, start = _DECODER.raw_decode(text, start)
            yield value
        except (ValueError, RecursionError):
            for candidate in _completed(text[start:]):
                with suppress(ValueError, RecursionError):
                    yield _DECODER.decode(candidate)
            start += 1


def _completed(text: str) -> list[str]:
    """Whole JSON texts: without commas that close a list; closed at its end; cut before that."""
    kept: list[str] = []  # tokens, without commas before a closing bracket
    closers: list[str] = []  # of the open brackets
    cuts: list[int] = []  # per open bracket the tokens before its unfinished element
    in_text = False
    for found in _TOKEN.finditer(text):
        token = found[0]
        in_text = found["text"] is not None and not found["end"]
        if found["extra"]:
            continue
        if token in ("]", "}"):
            if token != closers.pop():
                return []  # not JSON: brackets that do not match
            cuts.pop()
        if token == ",":
            cuts[-1] = len(kept)
        kept.append(token)
        if token in ("[", "{"):
            closers.append("]" if token == "[" else "}")
            cuts.append(len(kept))
        if not closers or len(closers) > _DEEPEST:
            break
    whole, ends = "".join(kept), "".join(reversed(closers))
    if not closers:
        return [whole]
    # The outermost first: no half element is kept.
    parts = [
        "".join(kept[:cut]) + ends[len(ends) - depth :] for depth, cut in enumerate(cuts, start=1)
    ]
    is_after_value = not in_text and whole.rstrip()[-1:] in ('"', "}", "]")
    return [whole + ends, *parts] if is_after_value else parts
