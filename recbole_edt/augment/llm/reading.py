"""Finding the JSON in what a model wrote, and mending it where it is clear what was meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from recbole_edt.augment.llm.reply import Mismatch, Reply, conform

_THOUGHTS = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_STARTS_TRIED = 20
"""Brackets at which a value may begin; text that only looks like JSON must not cost minutes."""
_DEEPEST = 64
_DECODER = json.JSONDecoder(strict=False, parse_constant=lambda name: None)


def read_answer(text: str, reply: type[Reply]) -> dict[str, Any]:
    """Read the JSON that a model wrote.

    Found are: JSON alone, in a code fence, in the middle of a text, behind thoughts in ``<think>``
    tags. Mended are: commas before a closing bracket, line breaks within texts, and JSON that
    breaks off: the element that is not finished is dropped and the brackets are closed.

    Returns
    -------
    dict
        The fields of the first such value in the text.

    Raises
    ------
    Mismatch
        If there is none; the message is meant for the model as much as for the user.
    """
    reason = "there is no JSON in the answer"
    for n, value in enumerate(_values(_THOUGHTS.sub("", text))):
        try:
            return conform(value, reply)
        except Mismatch as mismatch:
            reason = reason if n else str(mismatch)
    raise Mismatch(reason)


def _values(text: str) -> Iterator[Any]:
    """All values the text may hold, those that need the least mending first."""
    start, tried = 0, 0
    while tried < _STARTS_TRIED and (found := re.search(r"[\[{]", text[start:])):
        start += found.start()
        tried += 1
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            yield from _mended(text, start)
            start += 1
        else:
            yield value
            start = end


def _mended(text: str, start: int) -> Iterator[Any]:
    """Values that the broken JSON from ``start`` on may have been meant to be."""
    for candidate in _completed(text[start:]):
        try:
            yield _DECODER.decode(candidate)
        except (ValueError, RecursionError):
            continue


def _completed(text: str) -> list[str]:
    """Whole JSON texts: without commas that close a list; closed at its end; cut before that."""
    kept: list[str] = []  # of the text, what is not a comma before a closing bracket
    closers: list[str] = []  # of the open brackets
    cuts: list[int] = []  # per open bracket the length of ``kept`` before its element under way
    in_text = is_escaped = False
    for sign in text:
        if in_text:
            in_text = is_escaped or sign != '"'
            is_escaped = sign == "\\" and not is_escaped
        elif sign in "]}":
            if sign != closers.pop():
                return []  # not JSON: brackets that do not match
            cuts.pop()
            while kept[-1].isspace():
                kept.pop()
            if kept[-1] == ",":
                kept.pop()
        elif sign == '"':
            in_text = True
        kept.append(sign)
        if in_text:
            continue
        if sign in "[{":
            closers.append("]" if sign == "[" else "}")
            cuts.append(len(kept))
        elif sign == ",":
            cuts[-1] = len(kept) - 1
        if not closers or len(closers) > _DEEPEST:
            break
    whole = "".join(kept)
    if not closers:
        return [whole]
    cut_texts = [
        whole[:cut] + "".join(reversed(closers[: depth + 1])) for depth, cut in enumerate(cuts)
    ]  # the outermost first: no half element is kept
    is_after_value = not in_text and whole.rstrip()[-1:] in ('"', "}", "]")
    return [whole + "".join(reversed(closers)), *cut_texts] if is_after_value else cut_texts
