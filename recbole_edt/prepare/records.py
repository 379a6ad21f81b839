"""Lines of the raw Amazon files, and the clean values that come out of them.

Reviews and metadata are JSON objects, one a line. Two exceptions: metadata of 2014 are Python
literals, which are parsed as literals and never evaluated, where nobody has rewritten them; the
k-cores of 2023 are CSV with a header. Fields of 2014 and 2018 have other names than those of 2023.
"""

from __future__ import annotations

import ast
import gzip
import html
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from recbole_edt.errors import DataError
from recbole_edt.io.prices import read_price

T = TypeVar("T")

_ASIN = re.compile(r"[0-9A-Z]{10}")
_ASIN_FIELD = re.compile(rb"""(?:'asin'|"(?:parent_)?asin") ?: ?['"]([0-9A-Z]{10})['"]""")
_SCRIPT = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<(?:/?[a-zA-Z][^<>]*|!--.*?--)>", re.DOTALL)
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\ud800-\udfff]")
_MILLISECONDS = 1e11  # times from here on are not seconds
_BY = re.compile(r"\s*(?:\n\s*by\s+|by\s*\n\s*)")


class Malformed(ValueError):
    """A line that cannot be parsed."""


class Item(NamedTuple):
    """Clean attributes of one item; unknown ones are empty, an unknown price is None."""

    asin: str
    title: str = ""
    brand: str = ""
    price: float | None = None
    categories: str = ""
    description: str = ""


# Lines.


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a plain or gzipped file with a progress bar; memory stays small."""
    bar = tqdm(
        desc=f"read {path.name}", total=path.stat().st_size, unit="B", unit_scale=True, disable=None
    )
    with path.open("rb") as raw, bar:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        stream: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            for number, line in enumerate(stream):
                if number % 4096 == 0:
                    bar.update(raw.tell() - bar.n)
                if not line.isspace():
                    yield line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path} is a damaged gzip file: {error}") from error


def parse_lines(path: Path, parse: Callable[[bytes], T], max_malformed: float) -> Iterator[T]:
    """Yield what ``parse`` makes of the lines; those that raise :class:`Malformed` are left out.

    Raises
    ------
    DataError
        If the file is empty or damaged, or more than ``max_malformed`` of its lines are unreadable.
    """
    n_lines = n_malformed = 0
    first = ""
    for n_lines, line in enumerate(read_lines(path), start=1):
        try:
            value = parse(line)
        except Malformed as error:
            n_malformed += 1
            first = first or f"line {n_lines}: {error}"
        else:
            yield value
    if not n_lines:
        raise DataError(f"{path} is empty")
    found = f"{n_malformed} of {n_lines} lines are unreadable"
    if n_malformed > max_malformed * n_lines:
        raise DataError(f"{path}: {found} (max_malformed={max_malformed}); the first is {first}")
    if n_malformed:
        tqdm.write(f"{path.name}: {found} and left out; the first is {first}")


# Reviews.


def parse_review(line: bytes) -> tuple[str, str, int]:
    """Read reviewer, ASIN and Unix time of a review line, or raise :class:`Malformed`."""
    record = parse_json(line)
    return _review(
        record.get("user_id", record.get("reviewerID")),
        record.get("parent_asin", record.get("asin")),
        record.get("timestamp", record.get("unixReviewTime")),
    )


def csv_parser() -> Callable[[bytes], tuple[str, str, int] | None]:
    """Make a parser of the lines of a CSV file of reviews, which gives None for the header."""
    columns: list[str] = []

    def parse(line: bytes) -> tuple[str, str, int] | None:
        values = line.decode("utf-8", "replace").strip().split(",")
        if not columns:
            columns.extend(values)
            return None
        record = dict(zip(columns, values, strict=False))
        return _review(*(record.get(key) for key in ("user_id", "parent_asin", "timestamp")))

    return parse


def _review(user: Any, asin: Any, time: Any) -> tuple[str, str, int]:
    if not isinstance(user, str) or not user:
        raise Malformed("no reviewerID or user_id")
    if not isinstance(asin, str) or not _ASIN.fullmatch(asin):
        raise Malformed("no asin or parent_asin")
    try:
        seconds = float(time) if not isinstance(time, bool) else -1.0
    except (TypeError, ValueError):
        seconds = -1.0
    if seconds >= _MILLISECONDS:
        seconds /= 1000
    if not 0 <= seconds < 1 << 32:
        raise Malformed("no unixReviewTime or timestamp")
    return user, asin, int(seconds)


def number_to_asin(number: int) -> str:
    """Write a number to base 36 as the ten characters of an ASIN; ``int(asin, 36)`` undoes it."""
    return np.base_repr(number, 36).zfill(10)


# Metadata.


def named_asins(line: bytes) -> list[bytes]:
    """ASINs that a metadata line may describe; it is not parsed, so a text can look like one."""
    return _ASIN_FIELD.findall(line)


def parse_json(line: bytes) -> dict[str, Any]:
    """Read a JSON object, or raise :class:`Malformed`."""
    return _mapping(json.loads, line, "no JSON object")


def _mapping(read: Callable[[str], Any], line: bytes, problem: str) -> dict[str, Any]:
    try:
        record = read(line.decode("utf-8"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise Malformed(problem) from error
    if not isinstance(record, dict):
        raise Malformed(problem)
    return record


def parse_metadata(line: bytes) -> dict[str, Any]:
    """Read a metadata line, JSON or a Python literal (not evaluated), or raise `Malformed`."""
    try:
        return parse_json(line)
    except Malformed:
        return _mapping(ast.literal_eval, line.strip(), "no Python literal of a dictionary")


def read_item(record: dict[str, Any], root: str, description_length: int) -> Item:
    """Make clean attributes of a metadata record, or raise :class:`Malformed`.

    Parameters
    ----------
    record : dict
        2014: ``categories`` (list of paths), ``description`` (text), ``price`` (number);
        2018: ``category`` (one path), ``description`` (list of texts), ``price`` (such as
        ``"$12.99"`` or ``"$9.99 - $19.99"``, of which the lower counts);
        2023: ``categories`` (one path; if it is empty, ``main_category``), ``features`` and
        ``description`` (lists of texts), ``details`` (with ``Brand``) and ``store``, ``price``
        (number or null).
    root : str
        Category of the domain; paths that start with it come first.
    description_length : int
        Longest description, in characters.
    """
    asin = record.get("parent_asin", record.get("asin"))
    if not isinstance(asin, str) or not _ASIN.fullmatch(asin):
        raise Malformed("no asin or parent_asin")
    title, details = _text(record.get("title")), record.get("details")
    if isinstance(details, str):  # as Hugging Face has them
        with suppress(ValueError):
            details = json.loads(details)
    brand = details.get("Brand") if isinstance(details, dict) else None
    brand = _text(record.get("brand") or brand or record.get("store"))
    text = f"{_text(record.get('features'))} {_text(record.get('description'))}"
    return Item(
        asin=asin,
        # in 2018 some titles are the script of a page, some brands "by", line breaks and a name
        title=shorten(clean("" if "getTime()" in title else title), 300),
        brand=shorten(clean(_BY.sub("", brand, count=1)), 100),
        price=read_price(record.get("price")),
        categories=_categories(record, root),
        description=shorten(clean(text), description_length),
    )


def clean(value: str) -> str:
    """One line of plain text: no entities, tags, control characters or double quotes.

    A double quote becomes two single ones, since RecBole's own reader interprets it.
    """
    for _ in range(3):  # entities are often escaped twice
        value = html.unescape(value)
    value = _TAG.sub(" ", _SCRIPT.sub(" ", value))
    return " ".join(_INVISIBLE.sub("", value).replace('"', "''").split())


def shorten(text: str, length: int) -> str:
    """Cut a text after its last whole word within ``length`` characters."""
    if len(text) <= length:
        return text
    words = text[: length + 1].rpartition(" ")[0]
    return (words or text[:length]).rstrip()


def _text(value: object) -> str:
    """Join the texts of a list; anything else that is no text counts as empty."""
    parts = value if isinstance(value, list) else [value]
    return " ".join(part for part in parts if isinstance(part, str))


def _categories(record: dict[str, Any], root: str) -> str:
    """Labels of all category paths, each once, the domain's own paths first."""
    value = record.get("categories", record.get("category")) or [record.get("main_category")]
    if not isinstance(value, list):
        return ""
    paths = value if all(isinstance(path, list) for path in value) else [value]
    cleaned = [[clean(_text(label)).replace("|", "/") for label in path] for path in paths]
    cleaned.sort(key=lambda path: _letters(path[0] if path else "") != _letters(root))
    # labels of more than 60 characters are product features in 2018
    labels = dict.fromkeys(label for path in cleaned for label in path if 0 < len(label) <= 60)
    return " | ".join(list(labels)[:8])


def _letters(text: str) -> str:
    """A category's name for comparison: "Sports & Outdoors" is "Sports_and_Outdoors"."""
    return "".join(c for c in text.lower().replace(" & ", " and ") if c.isalpha())
