"""Metadata files: which items a domain lists, and the attributes of those that stay."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recbole_edt.prepare.records import Item, named_asins, parse_lines, read_lines


def listed_asins(path: Path) -> np.ndarray:
    """Numbers of the items that a metadata file lists, ascending; its lines are not parsed."""
    numbers = array("q")
    for line in read_lines(path):
        numbers.extend(int(asin, 36) for asin in named_asins(line))
    return np.unique(np.frombuffer(numbers, dtype=np.int64))


def read_catalogue(
    path: Path, wanted: set[str], read: Callable[[bytes], Item], max_malformed: float
) -> dict[str, Item]:
    """Read the attributes of the wanted items; only lines that name one are parsed.

    ``read`` makes an item of a line, or raises :class:`~.records.Malformed`. Items that the file
    does not describe are missing from the result; of several descriptions the first counts.
    """
    needles = {asin.encode("ascii") for asin in wanted}

    def parse(line: bytes) -> Item | None:
        named = named_asins(line)
        return None if named and needles.isdisjoint(named) else read(line)

    found: dict[str, Item] = {}
    for item in parse_lines(path, parse, max_malformed):
        if item is not None and item.asin in wanted:
            found.setdefault(item.asin, item)
    return found
