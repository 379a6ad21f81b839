"""Lines of the raw Amazon files, and the clean values that come out of them.

Reviews are JSON in both editions. Metadata is JSON in 2018, while in 2014 each line is a Python
literal, which is parsed as a literal and never evaluated.
"""

from __future__ import annotations

import ast
import gzip
import html
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from recbole_edt.errors import DataError

T = TypeVar("T")

LONGEST_TITLE = 300
LONGEST_BRAND = 100
LONGEST_LABEL = 60  # of a category; longer ones are product features in 2018
MOST_LABELS = 8
MAX_TIMESTAMP = 1 << 32

_ASIN = re.compile(r"[0-9A-Z]{10}")
_ASIN_FIELD = re.compile(rb"""(?:'asin'|"asin") ?: ?['"]([0-9A-Z]{10})['"]""")
_SCRIPT = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<(?:/?[a-zA-Z][^<>]*|!--.*?--)>", re.DOTALL)
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\ud800-\udfff]")
_PRICE = re.compile(r"\$?\s*(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:\s*-.*)?", re.DOTALL)
_BY = re.compile(r"\s*\n\s*by\s+")


class Malformed(ValueError):
    """A line that is no record."""


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
    """Yield the lines of a plain or gzipped file with a progress bar; memory stays small.

    Raises
    ------
    DataError
        If the file is a damaged gzip file.
    """
    with path.open("rb") as raw:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        stream: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw
        size = path.stat().st_size
        with tqdm(
            desc=f"read {path.name}", total=size, unit="B", unit_scale=True, disable=None
        ) as bar:
            try:
                for number, line in enumerate(stream):
                    if number % 4096 == 0:
                        bar.update(raw.tell() - bar.n)
                    if not line.isspace():
                        yield line
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataError(f"{path} is a damaged gzip file: {error}") from error


def parse_lines(path: Path, parse: Callable[[bytes], T], max_malformed: float) -> Iterator[T]:
    """Parse the lines of a file, leaving out unreadable ones and reporting how many.

    Parameters
    ----------
    path : Path
        Plain or gzipped.
    parse : callable
        Reads a line, or raises :class:`Malformed`.
    max_malformed : float
        Share of unreadable lines above which the file is refused.

    Raises
    ------
    DataError
        If the file is empty or damaged, or more lines than that are unreadable.
    """
    n_lines = n_malformed = 0
    first = ""
    for line in read_lines(path):
        n_lines += 1
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
    user, asin, time = (record.get(key) for key in ("reviewerID", "asin", "unixReviewTime"))
    if not isinstance(user, str) or not user:
        raise Malformed("no reviewerID")
    if not isinstance(asin, str) or not _ASIN.fullmatch(asin):
        raise Malformed("no asin")
    if type(time) is not int or not 0 <= time < MAX_TIMESTAMP:
        raise Malformed("no unixReviewTime")
    return user, asin, time


def asin_to_number(asin: str) -> int:
    """Read the ten characters of an ASIN as the digits of a number to base 36."""
    return int(asin, 36)


def number_to_asin(number: int) -> str:
    """Undo :func:`asin_to_number`."""
    return np.base_repr(number, 36).zfill(10)


# Metadata.


def named_asins(line: bytes) -> list[bytes]:
    """ASINs that a metadata line may describe, found without parsing it.

    Usually one; a text that looks like the field gives one more.
    """
    return _ASIN_FIELD.findall(line)


def parse_json(line: bytes) -> dict[str, Any]:
    """Read a JSON object, or raise :class:`Malformed`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(record, dict):
        raise Malformed("no JSON object")
    return record


def parse_literal(line: bytes) -> dict[str, Any]:
    """Read a Python dictionary literal, or raise :class:`Malformed`; nothing is evaluated."""
    try:
        record = ast.literal_eval(line.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise Malformed("no Python literal") from error
    if not isinstance(record, dict):
        raise Malformed("no dictionary")
    return record


METADATA: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "json": parse_json,
    "python": parse_literal,
}
"""Readers of a metadata line, by how an edition writes it."""


def read_item(record: dict[str, Any], root: str, description_length: int) -> Item:
    """Make clean attributes of a metadata record.

    Parameters
    ----------
    record : dict
        2014: ``categories`` (list of paths), ``description`` (text), ``price`` (number);
        2018: ``category`` (one path), ``description`` (list of texts), ``price`` (such as
        ``"$12.99"`` or ``"$9.99 - $19.99"``, of which the lower counts).
    root : str
        Category of the domain; paths that start with it come first.
    description_length : int
        Longest description, in characters.

    Raises
    ------
    Malformed
        If the record has no ASIN.
    """
    asin = record.get("asin")
    if not isinstance(asin, str) or not _ASIN.fullmatch(asin):
        raise Malformed("no asin")
    return Item(
        asin=asin,
        title=_title(record.get("title")),
        brand=_brand(record.get("brand")),
        price=_price(record.get("price")),
        categories=_categories(record, root),
        description=shorten(clean(_joined(record.get("description"))), description_length),
    )


def clean(value: object) -> str:
    """One line of plain text: no entities, tags, control characters or double quotes.

    A double quote becomes two single ones, since RecBole's own reader gives it a meaning.
    """
    if not isinstance(value, str):
        return ""
    for _ in range(3):  # entities are often escaped twice
        plain = html.unescape(value)
        if plain == value:
            break
        value = plain
    if "<" in value:
        value = _TAG.sub(" ", _SCRIPT.sub(" ", value))
    return " ".join(_INVISIBLE.sub("", value).replace('"', "''").split())


def shorten(text: str, length: int) -> str:
    """Cut a text behind its last whole word within ``length`` characters."""
    if len(text) <= length:
        return text
    head = text[: length + 1]
    words = head.rpartition(" ")[0]
    return (words or head[:length]).rstrip()


def _joined(value: object) -> str:
    if isinstance(value, list):
        return " ".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _title(value: object) -> str:
    """A title; empty where an item of 2018 has the script of a page instead."""
    if isinstance(value, str) and "getTime()" in value:
        return ""
    return shorten(clean(value), LONGEST_TITLE)


def _brand(value: object) -> str:
    """A brand, without the line "by" that precedes some of 2018."""
    if isinstance(value, str):
        value = _BY.sub("", value, count=1)
    return shorten(clean(value), LONGEST_BRAND)


def _price(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        price = float(value)
    else:
        found = _PRICE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            return None
        price = float(found[1].replace(",", "") + (found[2] or ""))
    return price if 0 < price < 1e7 else None


def _categories(record: dict[str, Any], root: str) -> str:
    """Labels of all category paths, each once, the domain's own paths first."""
    value = record.get("categories", record.get("category"))
    if not isinstance(value, list):
        return ""
    paths = value if all(isinstance(path, list) for path in value) else [value]
    cleaned = [[clean(label).replace("|", "/") for label in path] for path in paths]
    cleaned.sort(key=lambda path: _letters(path[0] if path else "") != _letters(root))
    labels = dict.fromkeys(
        label for path in cleaned for label in path if 0 < len(label) <= LONGEST_LABEL
    )
    return " | ".join(list(labels)[:MOST_LABELS])


def _letters(text: str) -> str:
    """A category's name for comparison: "Sports & Outdoors" is "Sports_and_Outdoors"."""
    return "".join(c for c in text.lower().replace(" & ", " and ") if c.isalpha())
