"""Which reviews stay, on tiny cases by hand and against the slow, obvious way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_edt.errors import DataError
from recbole_edt.prepare.filters import Filters, apply, drop_cross_listed, in_order
from recbole_edt.prepare.reviews import Reviews

LAX = {"min_item_rows": 1, "min_user_rows": 1}


def reviews(*rows: tuple[int, int, int]) -> Reviews:
    """Rows of (user, item, time); items from 100 on belong to domain B."""
    user, item, time = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    asins = np.arange(200)
    tie = np.arange(len(rows), dtype=np.uint64)
    domain = (item >= 100).astype(np.int8)
    return Reviews(user.astype(np.int32), item.astype(np.int32), time, domain, asins, tie)


def rows_of(found: Reviews) -> list[tuple[int, int, int]]:
    return list(zip(found.user.tolist(), found.item.tolist(), found.time.tolist(), strict=True))


def test_rows_are_ordered_by_user_time_and_hash():
    found = in_order(reviews((1, 5, 7), (0, 2, 9), (0, 1, 9), (0, 100, 3)))
    assert rows_of(found) == [(0, 100, 3), (0, 2, 9), (0, 1, 9), (1, 5, 7)]


def test_items_of_both_domains_leave_both():
    rows = reviews((0, 1, 0), (0, 2, 0), (0, 3, 0), (0, 100, 0))
    rows.domain[1] = 1
    also = Reviews(*(np.concatenate([getattr(rows, f)] * 2) if f != "asins" else rows.asins
                     for f in ("user", "item", "time", "domain", "asins", "tie")))  # fmt: skip
    also.domain[5] = 0  # item 2 is now reviewed in both files
    assert rows_of(drop_cross_listed(also, np.array([3]))) == [(0, 1, 0), (0, 100, 0)] * 2


def test_of_repeated_rows_the_first_stays():
    rows = reviews((0, 1, 1), (0, 100, 2), (0, 1, 3))
    assert rows_of(apply(rows, Filters(**LAX))) == [(0, 1, 1), (0, 100, 2)]
    assert len(apply(rows, Filters(**LAX, repeated="all"))) == 3


def test_a_dropped_item_can_drop_a_user_and_so_on():
    chain = [(0, 1, 1), (0, 2, 2), (1, 2, 1), (1, 3, 2)]  # item 1 is rare, then user 0, item 2, ...
    full = [(u, i, t) for u in (2, 3) for t, i in enumerate((4, 100))]
    found = apply(reviews(*chain, *full), Filters(min_item_rows=2, min_user_rows=2))
    assert rows_of(found) == full


def test_users_of_both_domains_with_enough_rows_in_each():
    rows = reviews(
        (0, 1, 1), (0, 2, 2), (0, 100, 3), (0, 101, 4), (1, 1, 1), (1, 2, 2), (1, 100, 3),
        (2, 1, 1), (2, 2, 2),
    )  # fmt: skip
    both = apply(rows, Filters(**LAX, users="both"))
    assert set(both.user) == {0, 1}
    two_each = apply(rows, Filters(**LAX, users="both", min_rows_per_domain=2))
    assert set(two_each.user) == {0}
    two_where_any = apply(rows, Filters(**LAX, min_rows_per_domain=2))
    assert set(two_where_any.user) == {0, 2}


def test_long_histories_keep_their_last_rows():
    rows = reviews((0, 1, 1), (0, 2, 2), (0, 100, 3), (1, 1, 1), (1, 100, 2))
    assert rows_of(apply(rows, Filters(**LAX, max_rows=2))) == [
        (0, 2, 2), (0, 100, 3), (1, 1, 1), (1, 100, 2),
    ]  # fmt: skip


def test_what_the_cut_makes_rare_leaves_as_well():
    once = [(0, 100, 2), (0, 101, 3), (1, 100, 2), (2, 100, 1), (2, 101, 2)]
    rows = reviews((0, 1, 1), *once[:2], (1, 1, 1), *once[2:])  # item 1: user 0 loses his row
    assert rows_of(_cut(rows, min_item_rows=1)) == [*once[:2], (1, 1, 1), *once[2:]]
    with pytest.raises(DataError, match="only domain B"):
        _cut(rows, min_item_rows=2)


def _cut(rows: Reviews, min_item_rows: int) -> Reviews:
    return apply(rows, Filters(min_item_rows=min_item_rows, min_user_rows=1, max_rows=2))


@pytest.mark.parametrize(
    ("rows", "left"),
    [([(0, 1, 1), (0, 100, 2)], "nothing"), ([(0, 1, 1), (1, 1, 2), (1, 100, 2)], "only domain A")],
)
def test_filters_that_leave_too_little_are_refused(rows, left):
    with pytest.raises(DataError, match=left):
        apply(reviews(*rows), Filters(min_item_rows=2, min_user_rows=1))


def slow_core(rows, items: int, users: int):
    while True:
        kept = [
            (u, i, t)
            for u, i, t in rows
            if sum(i == other for _, other, _ in rows) >= items
            and sum(u == other for other, _, _ in rows) >= users
        ]
        if kept == rows:
            return rows
        rows = kept


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from([1, 2, 3, 100, 101]), st.integers(0, 9)),
        max_size=40,
        unique_by=lambda row: row[:2],
    ),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_the_core_is_the_largest_one(rows, items, users):
    expected = slow_core(sorted(rows, key=lambda r: (r[0], r[2], rows.index(r))), items, users)
    settings = Filters(min_item_rows=items, min_user_rows=users)
    if len({i >= 100 for _, i, _ in expected}) < 2:
        with pytest.raises(DataError):
            apply(in_order(reviews(*rows)), settings)
    else:
        assert rows_of(apply(in_order(reviews(*rows)), settings)) == expected
