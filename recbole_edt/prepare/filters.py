"""Which reviews stay. All filters work on arrays and keep the order of what is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_edt.errors import DataError
from recbole_edt.prepare.reviews import Reviews


@dataclass(frozen=True)
class Filters:
    """Settings of the filters; ``properties/prepare/amazon.yaml`` documents each.

    Attributes
    ----------
    repeated : str
        ``first`` or ``all``.
    min_item_rows, min_user_rows : int
        The k-core.
    min_rows_per_domain : int
        Least rows of a user in each domain in which he has any; with ``users: both`` in both.
    users : str
        ``all`` or ``both``.
    max_rows : int
        Most rows of a user; 0 for no limit.
    """

    repeated: str = "first"
    min_item_rows: int = 5
    min_user_rows: int = 5
    min_rows_per_domain: int = 0
    users: str = "all"
    max_rows: int = 0


def in_order(reviews: Reviews) -> Reviews:
    """Sort by user, then time, then the hash of user and item.

    Most times are whole days, so ties are common. The hash breaks them without preferring a
    domain, an older product, or whatever stands first in the file.
    """
    return reviews.where(np.lexsort((reviews.tie, reviews.time, reviews.user)))


def drop_cross_listed(reviews: Reviews, listed: np.ndarray) -> Reviews:
    """Drop items of both domains from both.

    Parameters
    ----------
    reviews : Reviews
        The rows.
    listed : np.ndarray
        int64; numbers of the items that the metadata of both domains lists.
    """
    seen = np.zeros((len(reviews.asins), 2), dtype=bool)
    seen[reviews.item, reviews.domain] = True
    both = seen.all(axis=1) | np.isin(reviews.asins, listed)
    return reviews.where(~both[reviews.item])


def apply(reviews: Reviews, filters: Filters) -> Reviews:
    """Apply all filters to ordered rows.

    Repeated rows go first. Then items and users with too few rows leave until nothing changes;
    then long histories are cut to their last rows, and what that made too rare leaves likewise.

    Parameters
    ----------
    reviews : Reviews
        As :func:`in_order` returns them.
    filters : Filters
        The settings.

    Raises
    ------
    DataError
        If nothing, or one domain alone, is left.
    """
    if filters.repeated == "first":
        reviews = _first_of_each(reviews)
    reviews = _core(reviews, filters)
    if filters.max_rows:
        reviews = _core(_last_rows(reviews, filters.max_rows), filters)
    if len(np.unique(reviews.domain)) < 2:
        left = f"only domain {'AB'[reviews.domain[0]]}" if len(reviews) else "nothing"
        raise DataError(f"the filters leave {left}: lower min_item_rows or min_user_rows")
    return reviews


def _first_of_each(reviews: Reviews) -> Reviews:
    """Keep the first of a user's rows with the same item."""
    pair = reviews.user.astype(np.int64) * len(reviews.asins) + reviews.item
    first = np.unique(pair, return_index=True)[1]
    return reviews.where(np.sort(first))


def _core(reviews: Reviews, filters: Filters) -> Reviews:
    """Drop rare items and short users until none is left."""
    while True:
        before = len(reviews)
        enough = np.bincount(reviews.item, minlength=1) >= filters.min_item_rows
        reviews = reviews.where(enough[reviews.item])
        reviews = reviews.where(_users_kept(reviews, filters)[reviews.user])
        if len(reviews) == before:
            return reviews


def _users_kept(reviews: Reviews, filters: Filters) -> np.ndarray:
    """Tell which users stay; bool by user number."""
    n_users = int(reviews.user.max(initial=-1)) + 1
    codes = 2 * reviews.user.astype(np.int64) + reviews.domain
    counts = np.bincount(codes, minlength=2 * n_users).reshape(n_users, 2)
    enough = counts >= filters.min_rows_per_domain
    if filters.users == "both":
        enough &= counts > 0
    else:
        enough |= counts == 0
    return enough.all(axis=1) & (counts.sum(axis=1) >= filters.min_user_rows)


def _last_rows(reviews: Reviews, most: int) -> Reviews:
    """Keep the last rows of each user; the rows are sorted by user."""
    ends = np.searchsorted(reviews.user, reviews.user, side="right")
    return reviews.where(ends - np.arange(len(reviews)) <= most)
