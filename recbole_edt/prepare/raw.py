"""Raw files: reviews as a table, and what the metadata say of the items that stay.

A review takes about thirty bytes, and no text of it is kept.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_edt.prepare import records
from recbole_edt.prepare.settings import PrepareCommand


def read_reviews(paths: Sequence[Path], max_malformed: float) -> pd.DataFrame:
    """Read the review files of domain A and domain B.

    Returns
    -------
    DataFrame
        One row per review: ``user`` (uint64, a hash; with 10 million users the chance that any two
        share one is below one in 300,000), ``item`` (int64, the ASIN read to base 36),
        ``time`` (int64, Unix seconds), ``domain`` (int8, 0 or 1).
    """
    parts = []
    for domain, path in enumerate(paths):
        users, items, times = array("Q"), array("q"), array("q")
        parse = records.csv_parser() if ".csv" in path.suffixes else records.parse_review
        for review in records.parse_lines(path, parse, max_malformed):
            if review is None:  # a header
                continue
            user, asin, time = review
            digest = hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            users.append(int.from_bytes(digest, "little"))
            items.append(int(asin, 36))
            times.append(time)
        columns = {"user": users, "item": items, "time": times}
        part = pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})
        parts.append(part.assign(domain=np.int8(domain)))
    return pd.concat(parts, ignore_index=True)


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort reviews by user, then time, then a hash of user and item.

    Most times are whole days, so ties are common. The hash breaks them without preferring a
    domain, an older product, or the order of the file.
    """
    tie = _mix(rows["user"].to_numpy() ^ _mix(rows["item"].to_numpy().astype(np.uint64)))
    return rows.iloc[np.lexsort((tie, rows["time"], rows["user"]))]


def _mix(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit values (the finaliser of SplitMix64); products wrap around on purpose."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def listed_asins(path: Path) -> np.ndarray:
    """Numbers of the items that a metadata file lists, ascending; its lines are not parsed."""
    numbers = array("q")
    for line in records.read_lines(path):
        numbers.extend(int(asin, 36) for asin in records.named_asins(line))
    return np.unique(np.frombuffer(numbers, dtype=np.int64))


def read_catalogue(
    path: Path, wanted: set[str], category: str, options: PrepareCommand
) -> dict[str, records.Item]:
    """Read the attributes of the wanted items; only lines that name one are parsed.

    Items that the file does not describe are missing from the result; of several descriptions the
    first counts. ``category`` is Amazon's name of the domain.
    """
    needles = {asin.encode("ascii") for asin in wanted}

    def parse(line: bytes) -> records.Item | None:
        named = records.named_asins(line)
        if named and needles.isdisjoint(named):
            return None
        record = records.parse_metadata(line)
        return records.read_item(record, category, options.description_length)

    found: dict[str, records.Item] = {}
    for item in records.parse_lines(path, parse, options.max_malformed):
        if item is not None and item.asin in wanted:
            found.setdefault(item.asin, item)
    return found
