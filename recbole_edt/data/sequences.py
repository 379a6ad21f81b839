"""User sequences as flat arrays, and everything the protocol derives from them.

All arrays are plain numpy; this module does not use RecBole, files or networks. A *row* is one
interaction; rows are sorted by (user, position).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_edt.errors import DataError, ProtocolError


@dataclass(frozen=True)
class Sequences:
    """Interaction sequences of all users in compressed row form.

    Attributes
    ----------
    offsets : np.ndarray
        int64 [n_users + 1]; rows of user ``u`` are ``offsets[u]:offsets[u + 1]``.
    items : np.ndarray
        int64 [n_rows]; item ids in the order of ``position``.
    augmented : np.ndarray
        bool [n_rows]; rows that preprocessing inserted (eq. 1).
    timestamps : np.ndarray
        float64 [n_rows]; Unix seconds, as read.
    """

    offsets: np.ndarray
    items: np.ndarray
    augmented: np.ndarray
    timestamps: np.ndarray

    @property
    def n_users(self) -> int:
        """Number of users, including those without rows (and the padding id 0)."""
        return len(self.offsets) - 1

    @property
    def users(self) -> np.ndarray:
        """User id of every row, int64 [n_rows]."""
        return np.repeat(np.arange(self.n_users), np.diff(self.offsets))

    def keep(self, mask: np.ndarray) -> Sequences:
        """Return the sequences restricted to the rows where ``mask`` (bool [n_rows]) holds."""
        offsets = row_offsets(mask)[self.offsets]
        return Sequences(offsets, self.items[mask], self.augmented[mask], self.timestamps[mask])


def row_offsets(counts: np.ndarray) -> np.ndarray:
    """Cumulative sum with a leading 0: offsets from lengths, or from a row mask, int64 [n + 1]."""
    return np.concatenate([[0], np.cumsum(counts)])


def expand_ranges(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate integer ranges ``start:stop``: the range of each number, and the numbers."""
    lengths = stops - starts
    owners = np.repeat(np.arange(len(lengths)), lengths)
    first = starts - row_offsets(lengths)[:-1]
    return owners, np.arange(len(owners)) + first[owners]


def gather_padded(
    values: np.ndarray, starts: np.ndarray, stops: np.ndarray, width: int
) -> np.ndarray:
    """Gather ``values[start:stop]`` of many ranges into a right-padded (zero) matrix [n, width]."""
    lengths = stops - starts
    columns = np.arange(width)
    valid = columns < lengths[:, None]  # [n, width]
    out = np.zeros((len(starts), width), dtype=values.dtype)
    out[valid] = values[(starts[:, None] + columns)[valid]]
    return out


def build_sequences(
    users: np.ndarray,
    items: np.ndarray,
    positions: np.ndarray,
    augmented: np.ndarray,
    timestamps: np.ndarray,
    n_users: int,
) -> Sequences:
    """Sort interactions by (user, position); no user may have two rows at one position."""
    order = np.lexsort((positions, users))
    users, positions = users[order], positions[order]
    same = (users[1:] == users[:-1]) & (positions[1:] == positions[:-1])
    if same.any():
        raise DataError(
            f"{int(same.sum())} rows repeat a (user_id, position) of another row: correct them, or "
            "leave the column 'position' out of .inter, and times order the rows"
        )
    offsets = np.searchsorted(users, np.arange(n_users + 1))
    return Sequences(offsets, items[order], augmented[order], timestamps[order])


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out over the RAW rows of each user: last = test, second last = validation.

    Attributes
    ----------
    users : np.ndarray
        int64 [n_eval]; users with at least three raw rows, ascending.
    valid_rows, test_rows : np.ndarray
        int64 [n_eval]; row index of the two held-out rows of each of these users.
    train_stops : np.ndarray
        int64 [n_users]; rows ``offsets[u]:train_stops[u]`` are the training rows of user ``u``.
    """

    users: np.ndarray
    valid_rows: np.ndarray
    test_rows: np.ndarray
    train_stops: np.ndarray

    def training(self, sequences: Sequences) -> Sequences:
        """Return the training rows alone."""
        rows = np.arange(len(sequences.items))
        return sequences.keep(rows < self.train_stops[sequences.users])


def leave_one_out(sequences: Sequences) -> LeaveOneOut:
    """Split every user's raw rows; augmented rows are allowed among the training rows only.

    Users with fewer than three raw rows are only trained on.

    Raises
    ------
    ProtocolError
        If an augmented row comes after a held-out row: preprocessing saw more than the training
        rows.
    """
    raw_rows = np.flatnonzero(~sequences.augmented)
    offsets = sequences.keep(~sequences.augmented).offsets
    users = np.flatnonzero(np.diff(offsets) >= 3)
    valid_rows, test_rows = (raw_rows[offsets[users + 1] - place] for place in (2, 1))
    ends = sequences.offsets[users + 1]
    leaking = (valid_rows != ends - 2) | (test_rows != ends - 1)
    if leaking.any():
        raise ProtocolError(
            f"{int(leaking.sum())} users have augmented rows after their validation row: "
            "preprocessing may only see and extend the training rows"
        )
    train_stops = sequences.offsets[1:].copy()
    train_stops[users] = valid_rows
    return LeaveOneOut(users, valid_rows, test_rows, train_stops)


@dataclass(frozen=True)
class Windows:
    """Row ranges of inputs.

    Attributes
    ----------
    users, starts, stops : np.ndarray
        int64 [n_windows]; inputs are rows ``starts:stops``. Targets are rows
        ``starts + 1:stops + 1`` of :func:`training_windows`, row ``stops`` of :func:`prefix_rows`.
    """

    users: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def take(self, at: np.ndarray) -> Windows:
        """Return the windows with these numbers."""
        return Windows(self.users[at], self.starts[at], self.stops[at])

    def __len__(self) -> int:
        return len(self.users)


def training_windows(sequences: Sequences, max_length: int) -> Windows:
    """Cut sequences into windows so that every row but a user's first is a target exactly once.

    A user with at most ``max_length + 1`` rows gets one window; longer ones are cut from the end.
    """
    first, last = sequences.offsets[:-1], sequences.offsets[1:] - 1
    counts = np.maximum(-(-(last - first) // max_length), 0)  # of a user's windows
    users, place = expand_ranges(1 - counts, np.ones_like(counts))  # 0 = the last, -1 before it
    stops = last[users] + place * max_length
    return Windows(users, np.maximum(first[users], stops - max_length), stops)


def prefix_rows(sequences: Sequences, max_length: int) -> Windows:
    """Expand every sequence into all its prefixes, the form RecBole's built-in models train on.

    The target of an entry is the row ``stops``, its input the rows ``starts:stops`` before it.
    """
    stops = sequences.offsets[1:]
    users, targets = expand_ranges(np.minimum(sequences.offsets[:-1] + 1, stops), stops)
    starts = np.maximum(sequences.offsets[users], targets - max_length)
    return Windows(users, starts, targets)


@dataclass(frozen=True)
class DomainRows:
    """Rows of one domain alone: the sub-sequences of eq. 2.

    Attributes
    ----------
    index : np.ndarray
        int64 [n_rows + 1]; rows of the domain before each of all rows. Rows ``start:stop`` of the
        mixed sequence are rows ``index[start]:index[stop]`` of the domain.
    items, augmented : np.ndarray
        int64 and bool [rows of the domain].
    """

    index: np.ndarray
    items: np.ndarray
    augmented: np.ndarray


def domain_rows(sequences: Sequences, item_domain: np.ndarray, domain: int) -> DomainRows:
    """Cut the rows of one domain out of all rows."""
    inside = item_domain[sequences.items] == domain
    return DomainRows(row_offsets(inside), sequences.items[inside], sequences.augmented[inside])
