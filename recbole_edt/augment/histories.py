"""What preprocessing may see: items, and every user's training rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_edt.augment.items import read_items
from recbole_edt.data.sequences import build_sequences, leave_one_out, row_offsets
from recbole_edt.errors import ConfigError
from recbole_edt.io import atomic
from recbole_edt.io.files import INTER_COLUMNS, read_table


@dataclass(frozen=True)
class Histories:
    """The raw rows of a data set, and which of them preprocessing sees."""

    items: pd.DataFrame  # Lines of ``.item`` as text
    domains: list[str]  # Names of domain A and B
    # int64 [n_items]; 0 or 1 by line of ``.item``, -1 for an unsold item, which nobody is offered
    item_domain: np.ndarray
    users: np.ndarray  # str [n_users]; tokens, ascending
    # int64 [n_users + 1]; training rows of user ``u`` are ``offsets[u]:offsets[u + 1]``
    offsets: np.ndarray
    # int64 [n_rows]; item line of every training row, in the order of ``position``
    rows: np.ndarray
    # All raw rows, by user and position: ``user_id``, ``item_id``, ``timestamp``, ``position``,
    # which is renumbered 1, 2, ... within each user, and further columns of ``.inter`` as text
    inter: pd.DataFrame
    # bool [len(inter)]; validation and test rows, which only the writer of the files sees
    held_out: np.ndarray
    # columns of ``items`` that describe an item, besides ``domain``
    text_columns: Sequence[str] = ("title",)

    def described(self, items: pd.DataFrame) -> pd.DataFrame:
        """Restrict lines of ``.item`` to what describes an item."""
        return items[["domain", *self.text_columns]]

    @property
    def owners(self) -> np.ndarray:
        """User of every training row, int64 [n_rows]."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    def of(self, user: int) -> np.ndarray:
        """Items of a user's training rows."""
        return self.rows[self.offsets[user] : self.offsets[user + 1]]

    def domain_counts(self) -> np.ndarray:
        """Training rows of each user in each domain, int64 [n_users, 2]."""
        key = self.owners * 2 + self.item_domain[self.rows]
        return np.bincount(key, minlength=2 * len(self.users)).reshape(-1, 2)


def read_histories(
    directory: str | Path,
    name: str,
    domains: list[str] | None = None,
    text_columns: Sequence[str] | None = None,
) -> Histories:
    """Read a raw data set and separate the held-out rows.

    Raises
    ------
    EDTError
        If the files break the data contract or are augmented already.
    """
    directory = Path(directory)
    atomic.check_files(directory, name)
    items, described = read_items(directory / f"{name}.item", text_columns)
    inter = read_table(directory / f"{name}.inter")
    for column in ("timestamp", "position"):
        if column in inter:
            inter[column] = pd.to_numeric(inter[column], errors="coerce")
    for frame in (items, inter):
        frame.replace("", np.nan, inplace=True)
    if atomic.derive_positions(inter):
        tqdm.write(f"{name}.inter: {atomic.BY_TIME}")
    atomic.check_frames(inter, items, name)
    items = items.fillna("")
    if (
        atomic.flag_column(inter, "augmented", name).any()
        or atomic.flag_column(items, "generated", name).any()
    ):
        raise ConfigError(
            f"{directory} is augmented already: `recbole-edt run` takes it as it is, augment takes "
            "raw data"
        )
    names = atomic.domain_names(items, domains, name)
    unsold = atomic.flag_column(items, "unsold", f"{name}.item") & ~items["item_id"].isin(
        inter["item_id"]
    )
    users, owner = np.unique(inter["user_id"].to_numpy(dtype=str), return_inverse=True)
    order = np.lexsort((inter["position"], owner))
    inter, owner = inter.iloc[order].reset_index(drop=True), owner[order]
    rows = pd.Index(items["item_id"]).get_indexer(inter["item_id"]).astype(np.int64)
    position, time = (inter[c].to_numpy(dtype=np.float64) for c in ("position", "timestamp"))
    augmented, held_out = np.zeros((2, len(rows)), dtype=bool)
    sequences = build_sequences(owner, rows, position, augmented, time, len(users))
    split = leave_one_out(sequences)
    held_out[np.concatenate([split.valid_rows, split.test_rows])] = True
    counts = row_offsets(~held_out)
    inter["position"] = np.arange(len(rows)) - sequences.offsets[owner] + 1
    further = [name for name in inter if name not in {*INTER_COLUMNS, "augmented"}]
    return Histories(
        items=items,
        domains=names,
        item_domain=np.where(unsold, -1, items["domain"] == names[1]),
        users=users,
        offsets=counts[sequences.offsets],
        rows=rows[~held_out],
        inter=inter[[*INTER_COLUMNS, *further]],
        held_out=held_out,
        text_columns=described,
    )
