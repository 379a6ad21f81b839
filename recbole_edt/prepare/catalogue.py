"""Metadata files: which items a domain lists, and the attributes of those that stay."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_edt.prepare.records import (
    Item,
    LineCheck,
    Malformed,
    asin_to_number,
    metadata_parser,
    named_asins,
    read_item,
    read_lines,
)


@dataclass(frozen=True)
class MetadataFile:
    """A domain's metadata and how to read it.

    Attributes
    ----------
    path : Path
        The file.
    written_as : str
        ``json`` or ``python``.
    root : str
        The domain's category, such as ``Sports_and_Outdoors``.
    description_length : int
        Longest description, in characters.
    max_malformed : float
        Share of unreadable lines from which the file is refused.
    """

    path: Path
    written_as: str
    root: str
    description_length: int
    max_malformed: float


def listed_asins(path: Path) -> np.ndarray:
    """Numbers of the items that a metadata file lists, found without parsing its lines.

    Returns
    -------
    np.ndarray
        int64, ascending, distinct.
    """
    numbers = array("q")
    for line in read_lines(path):
        numbers.extend(asin_to_number(asin.decode("ascii")) for asin in named_asins(line))
    return np.unique(np.frombuffer(numbers, dtype=np.int64))


def read_catalogue(file: MetadataFile, wanted: set[str]) -> dict[str, Item]:
    """Read the attributes of the wanted items; only lines that name one are parsed.

    Parameters
    ----------
    file : MetadataFile
        Where and how.
    wanted : set of str
        ASINs. Items that the file does not describe are missing from the result; of several
        descriptions of an item the first counts.

    Raises
    ------
    DataError
        If the file is empty, damaged, or has too many unreadable lines.
    """
    parse = metadata_parser(file.written_as)
    check = LineCheck(file.path, file.max_malformed)
    needles = {asin.encode("ascii") for asin in wanted}
    found: dict[str, Item] = {}
    for line in read_lines(file.path):
        check.lines += 1
        named = named_asins(line)
        if named and needles.isdisjoint(named):
            continue
        try:
            item = read_item(parse(line), file.root, file.description_length)
        except Malformed as error:
            check.reject(error)
            continue
        if item.asin in wanted:
            found.setdefault(item.asin, item)
    check.close()
    return found
