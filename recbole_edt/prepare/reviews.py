"""Review files as arrays: about twenty bytes per review while a file is read, and no texts."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_edt.prepare.records import (
    LineCheck,
    Malformed,
    asin_to_number,
    parse_review,
    read_lines,
)


@dataclass(frozen=True)
class Reviews:
    """Reviews of both domains, one array entry per row.

    Attributes
    ----------
    user : np.ndarray
        int32; the user's number. Users are numbered from 0 in the order of a hash of their id.
    item : np.ndarray
        int32; index into ``asins``.
    time : np.ndarray
        int64; Unix seconds.
    domain : np.ndarray
        int8; 0 or 1: the file that the row comes from.
    asins : np.ndarray
        int64, ascending; the items as numbers (:func:`~.records.asin_to_number`).
    tie : np.ndarray
        uint64; a hash of user and item, which orders rows of the same second.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    domain: np.ndarray
    asins: np.ndarray
    tie: np.ndarray

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.user)

    def where(self, kept: np.ndarray) -> Reviews:
        """Return the rows of a mask or an index."""
        return Reviews(
            self.user[kept],
            self.item[kept],
            self.time[kept],
            self.domain[kept],
            self.asins,
            self.tie[kept],
        )


def read_reviews(paths: Sequence[Path], max_malformed: float) -> Reviews:
    """Read the review files of domain A and domain B.

    Users are kept as 64-bit hashes (with 10 million users the chance that any two share one is
    below one in 300,000), items as numbers.

    Parameters
    ----------
    paths : sequence of Path
        The two files.
    max_malformed : float
        Share of unreadable lines from which a file is refused.

    Raises
    ------
    DataError
        If a file is empty, damaged, or has too many unreadable lines.
    """
    columns = [_read_file(path, max_malformed) for path in paths]
    users, items, times = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    domain = np.repeat(np.arange(len(columns), dtype=np.int8), [len(c[0]) for c in columns])
    tie = _mix(users ^ _mix(items.astype(np.uint64)))
    user = np.unique(users, return_inverse=True)[1].astype(np.int32)
    asins, item = np.unique(items, return_inverse=True)
    return Reviews(user, item.astype(np.int32), times, domain, asins, tie)


def _read_file(path: Path, max_malformed: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User hashes, item numbers and times of one file."""
    users, items, times = array("Q"), array("q"), array("q")
    check = LineCheck(path, max_malformed)
    for line in read_lines(path):
        check.lines += 1
        try:
            user, asin, time = parse_review(line)
        except Malformed as error:
            check.reject(error)
            continue
        digest = hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        users.append(int.from_bytes(digest, "little"))
        items.append(asin_to_number(asin))
        times.append(time)
    check.close()
    return (
        np.frombuffer(users, dtype=np.uint64),
        np.frombuffer(items, dtype=np.int64),
        np.frombuffer(times, dtype=np.int64),
    )


def _mix(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit values (the finaliser of SplitMix64); products wrap around on purpose."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
