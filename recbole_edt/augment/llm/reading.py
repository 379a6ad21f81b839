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

    Parameters
    ----------
    text : str
        The answer.
    reply : type
        What it must be.

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
    for candidate in _Scan(text, start).candidates():
        try:
            yield _DECODER.decode(candidate)
        except (ValueError, RecursionError):
            continue


class _Scan:
    """One pass over broken JSON: which brackets are open where it ends, and where to cut it.

    ``kept`` is the text without commas that close a list. For each open bracket, ``cuts`` holds
    the length of ``kept`` before its element under way.
    """

    def __init__(self, text: str, start: int) -> None:
        self.kept: list[str] = []
        self.closers: list[str] = []
        self.cuts: list[int] = []
        self.in_text = False
        self._read(text, start)

    def _read(self, text: str, start: int) -> None:
        escaped = False
        for sign in text[start:]:
            if self.in_text:
                self.in_text = escaped or sign != '"'
                escaped = sign == "\\" and not escaped
                self.kept.append(sign)
                continue
            self._step(sign)
            if not self.closers or len(self.closers) > _DEEPEST:
                return

    def _step(self, sign: str) -> None:
        if sign in "]}":
            if not self.closers or sign != self.closers[-1]:
                self.closers.clear()  # not JSON: brackets that do not match
                return
            self.closers.pop()
            self.cuts.pop()
            self._drop_comma()
        self.kept.append(sign)
        if sign in "[{":
            self.closers.append("]" if sign == "[" else "}")
            self.cuts.append(len(self.kept))
        elif sign == "," and self.cuts:
            self.cuts[-1] = len(self.kept) - 1
        self.in_text = sign == '"'

    def _drop_comma(self) -> None:
        last = len(self.kept) - 1
        while last >= 0 and self.kept[last].isspace():
            last -= 1
        if last >= 0 and self.kept[last] == ",":
            del self.kept[last]

    def candidates(self) -> Iterator[str]:
        """Whole JSON texts: as it is; closed at its end; cut before what is not finished."""
        whole = "".join(self.kept)
        if not self.closers:
            yield whole
            return
        if not self.in_text and whole.rstrip()[-1:] in ('"', "}", "]"):
            yield whole + "".join(reversed(self.closers))
        for depth, cut in enumerate(self.cuts):  # the outermost first: no half element is kept
            yield whole[:cut] + "".join(reversed(self.closers[: depth + 1]))
