"""Filters of the reviews; all keep the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from recbole_edt.errors import DataError
from recbole_edt.prepare.settings import FilterSettings


def drop_cross_listed(rows: pd.DataFrame, listed: np.ndarray) -> pd.DataFrame:
    """Drop items that the reviews of both domains, or ``listed`` (int64 numbers), contain."""
    first, second = (rows["item"][rows["domain"] == domain].unique() for domain in (0, 1))
    both = np.union1d(np.intersect1d(first, second), listed)
    return rows[~rows["item"].isin(both)]


def drop_repeated(rows: pd.DataFrame, options: FilterSettings) -> pd.DataFrame:
    """Drop rows of a user and an item that were there before, as ``repeated`` says."""
    if options.repeated == "all":
        return rows
    return rows.drop_duplicates(["user", "item"] + ["time"] * (options.repeated == "exact"))


def apply_filters(
    rows: pd.DataFrame, options: FilterSettings, names: Sequence[str] = "AB"
) -> pd.DataFrame:
    """Apply all filters to ordered rows.

    Repeated rows are dropped first, then items and users with too few rows until nothing changes.
    Then long histories are cut to their last rows, and items and users that became too rare by that
    are dropped as well.

    Raises
    ------
    DataError
        If no rows, or rows of one domain only, are left.
    """
    unfiltered = drop_repeated(rows, options)
    rows = _core(unfiltered, options)
    if options.max_rows:
        rows = _core(rows.groupby("user").tail(options.max_rows), options)
    if rows["domain"].nunique() < 2:
        left = f"only domain {names[rows['domain'].iloc[0]]}" if len(rows) else "nothing"
        most = {key: unfiltered[key].value_counts().max() for key in ("user", "item")}
        raise DataError(
            f"the filters leave {left} of {len(unfiltered):,} rows, where a user has at most "
            f"{most['user']:,} and an item {most['item']:,}: lower --min_user_rows "
            f"({options.min_user_rows}) or --min_item_rows ({options.min_item_rows})"
        )
    return rows


def _core(rows: pd.DataFrame, options: FilterSettings) -> pd.DataFrame:
    """Drop rare items and short users until none is left."""
    before = -1
    while len(rows) != before and len(rows):
        before = len(rows)
        rows = rows[rows.groupby("item")["item"].transform("size") >= options.min_item_rows]
        by_user = rows["domain"].groupby(rows["user"])
        total, second = (by_user.transform(how).to_numpy(np.int64) for how in ("size", "sum"))
        counts = np.stack([total - second, second])  # [2, n_rows]: rows of the user by domain
        enough = counts >= options.min_rows_per_domain
        if options.users == "both":
            enough &= counts > 0
        else:
            enough |= counts == 0
        rows = rows[enough.all(axis=0) & (total >= options.min_user_rows)]
    return rows
