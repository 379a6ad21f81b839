"""Which reviews stay, on tiny cases by hand and against the slow, obvious way."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recbole_edt.errors import DataError
from recbole_edt.prepare.filters import apply_filters, drop_cross_listed
from recbole_edt.prepare.raw import in_order
from recbole_edt.prepare.settings import PrepareCommand


def options(**changes) -> PrepareCommand:
    """Filters that keep every row, but for the changes."""
    return PrepareCommand(**{"pair": "x", "min_item_rows": 1, "min_user_rows": 1, **changes})


def reviews(*rows: tuple[int, int, int]) -> pd.DataFrame:
    """Rows of (user, item, time); items from 100 on belong to domain B."""
    frame = pd.DataFrame(rows, columns=["user", "item", "time"], dtype=np.int64)
    return frame.astype({"user": np.uint64}).assign(domain=(frame["item"] >= 100).astype(np.int8))


def rows_of(found: pd.DataFrame) -> list[tuple[int, int, int]]:
    return list(found[["user", "item", "time"]].itertuples(index=False, name=None))


def test_rows_are_ordered_by_user_and_time_and_ties_prefer_no_domain():
    rows = [(0, 2, 9), (0, 1, 9), (0, 100, 3)]
    rows += [(user, item, 5) for user in range(1, 41) for item in (1, 100)]
    found = rows_of(in_order(reviews(*rows)))
    assert found == rows_of(in_order(reviews(*rows[::-1])))
    assert [row[::2] for row in found] == sorted(row[::2] for row in rows)
    assert 10 <= sum(item == 1 for _, item, _ in found[3::2]) <= 30


def test_items_of_both_domains_leave_both():
    rows = reviews(*[(user, item, 0) for user in (0, 1) for item in (1, 2, 3, 100)])
    rows.loc[1, "domain"] = 1  # item 2 is reviewed in both files
    assert rows_of(drop_cross_listed(rows, np.array([3]))) == [
        (0, 1, 0), (0, 100, 0), (1, 1, 0), (1, 100, 0),
    ]  # fmt: skip


def test_of_repeated_rows_the_first_stays():
    rows = reviews((0, 1, 1), (0, 100, 2), (0, 1, 3))
    assert rows_of(apply_filters(rows, options())) == [(0, 1, 1), (0, 100, 2)]
    assert len(apply_filters(rows, options(repeated="all"))) == 3
    twice = reviews((0, 1, 1), (0, 1, 1), (0, 100, 2), (0, 1, 3))
    assert len(apply_filters(twice, options(repeated="exact"))) == 3


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"users": "both"}, {0, 1}),
        ({"users": "both", "min_rows_per_domain": 2}, {0}),
        ({"min_rows_per_domain": 2}, {0, 2}),
    ],
    ids=str,
)
def test_users_of_both_domains_with_enough_rows_in_each(changes, kept):
    rows = reviews(
        (0, 1, 1), (0, 2, 2), (0, 100, 3), (0, 101, 4), (1, 1, 1), (1, 2, 2), (1, 100, 3),
        (2, 1, 1), (2, 2, 2),
    )  # fmt: skip
    assert set(apply_filters(rows, options(**changes))["user"]) == kept


def test_long_histories_keep_their_last_rows_and_what_that_makes_rare_leaves():
    once = [(0, 100, 2), (0, 101, 3), (1, 100, 2), (2, 100, 1), (2, 101, 2)]
    rows = reviews((0, 1, 1), *once[:2], (1, 1, 1), *once[2:])  # item 1: user 0 loses a row
    found = apply_filters(rows, options(max_rows=2))
    assert rows_of(found) == [*once[:2], (1, 1, 1), *once[2:]]
    with pytest.raises(DataError, match="only domain B"):
        apply_filters(rows, options(max_rows=2, min_item_rows=2))


@pytest.mark.parametrize(
    ("rows", "left"),
    [([(0, 1, 1), (0, 100, 2)], "nothing"), ([(0, 1, 1), (1, 1, 2), (1, 100, 2)], "only domain A")],
)
def test_filters_that_leave_too_little_are_refused(rows, left):
    with pytest.raises(DataError, match=left):
        apply_filters(reviews(*rows), options(min_item_rows=2))


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


ROW = st.tuples(st.integers(0, 6), st.sampled_from([1, 2, 3, 100, 101]), st.integers(0, 9))


@given(
    st.lists(ROW, max_size=40, unique_by=lambda row: row[:2]), st.integers(1, 3), st.integers(1, 3)
)
# item 1 is rare, then user 0 is short, then item 2 is rare, ...
@example(
    [(0, 1, 1), (0, 2, 2), (1, 2, 1), (1, 3, 2), *((u, i, 0) for u in (2, 3) for i in (101, 100))],
    2, 2,
)  # fmt: skip
def test_the_core_is_the_largest_one(rows, items, users):
    ordered = in_order(reviews(*rows))
    expected = slow_core(rows_of(ordered), items, users)
    settings = options(min_item_rows=items, min_user_rows=users)
    if len({i >= 100 for _, i, _ in expected}) < 2:
        with pytest.raises(DataError):
            apply_filters(ordered, settings)
    else:
        assert rows_of(apply_filters(ordered, settings)) == expected
