"""Weights of training targets by their age, and whether the data ask for them."""

import numpy as np
import pytest

from recbole_edt.data.recency import HALF_LIVES, recency_weights
from recbole_edt.data.sequences import Sequences

DAY = 86_400.0
DOMAIN_OF = np.array([-1, *[0] * 20, *[1] * 20])


def rows_of(users: list[list[tuple[int, float, bool]]]) -> Sequences:
    """Rows (item, day, inserted) of each user; user 0 is the padding."""
    offsets = np.cumsum([0, 0, *map(len, users)])
    rows = [row for of_user in users for row in of_user]
    items, days, inserted = (np.array(column) for column in zip(*rows, strict=True))
    return Sequences(offsets, items, inserted.astype(bool), days * DAY)


def shop(fashion: int, rng) -> list[list[tuple[int, float, bool]]]:
    """300 users with six rows of either domain within four years.

    Items of domain 0 are drawn from five that change every ``fashion`` days, or from all.
    """
    users = []
    for _ in range(300):
        rows = []
        for day in np.sort(rng.uniform(0, 1460, 12)):
            first = int(day // fashion) * 5 % 20 if fashion else 0
            among = 1 + first + rng.integers(5) if fashion else 1 + rng.integers(20)
            rows.append((int(among), day, False))
            rows.append((int(21 + rng.integers(20)), day, False))
        users.append(rows)
    return users


def test_weights_halve_with_age_and_have_mean_one_in_each_domain() -> None:
    # domain 0: shares 0.325, 0.55 and 1 of the newest row; domain 1: all of one age
    rows = rows_of([[(1, 0.0, False), (2, 10.0, True), (21, 15.0, False), (3, 20.0, False)]])
    weights, days = recency_weights(rows, DOMAIN_OF, 10.0)
    assert np.allclose(weights, [0.52, 0.88, 1.0, 1.6]) and weights.dtype == np.float32
    assert days == [10.0, 10.0]
    before_1970 = Sequences(rows.offsets, rows.items, rows.augmented, rows.timestamps - 1e10)
    assert np.allclose(recency_weights(before_1970, DOMAIN_OF, 10.0)[0], weights)
    wrong_clock = rows_of([[(1, 0.0, False), (2, 400.0, False), (3, 5e5, False)]])
    assert np.allclose(recency_weights(wrong_clock, DOMAIN_OF, 10.0)[0], [0.25, 0.25, 2.5])


@pytest.mark.parametrize("half_life", ["auto", 60.0])
@pytest.mark.parametrize("per_second", [1e3, 1e6, 1e9])
def test_unix_times_of_finer_units_weigh_as_seconds_do(per_second, half_life) -> None:
    rows = rows_of(shop(365, np.random.default_rng(0)))
    seconds, finer = (
        Sequences(rows.offsets, rows.items, rows.augmented, (rows.timestamps + 1.4e9) * unit)
        for unit in (1.0, per_second)
    )
    expected, days = recency_weights(seconds, DOMAIN_OF, half_life)
    weights, found = recency_weights(finer, DOMAIN_OF, half_life)
    assert found == days and days[0] > 0 and np.allclose(weights, expected)


def test_numbers_that_are_no_unix_times_count_as_seconds() -> None:
    rows = rows_of([[(1, 2.0e8, False), (2, 2.0e8 + 10, False)]])  # 1.7e13: the year 2517 in ms
    weights, _ = recency_weights(rows, DOMAIN_OF, 10.0)
    assert np.allclose(weights, [0.55 / 0.775, 1.0 / 0.775])


@pytest.mark.parametrize("half_life", ["auto", 0.0, 1.0])
@pytest.mark.parametrize("times", [[5.0], [7.0] * 3, [1.0, 2.0, 50.0, 3.0]])
def test_rows_of_one_day_weigh_exactly_one(times, half_life) -> None:
    rows = rows_of([[(1 + at % 2, time / DAY, False) for at, time in enumerate(times)]])
    weights, days = recency_weights(rows, DOMAIN_OF, half_life)
    assert weights.tolist() == [1.0] * len(times) and days == [0.0, 0.0]


def test_auto_weighs_the_domain_that_changes_alone() -> None:
    rows = rows_of(shop(365, np.random.default_rng(0)))
    weights, days = recency_weights(rows, DOMAIN_OF, "auto")
    assert days[0] in HALF_LIVES and days[1] == 0.0
    changing = DOMAIN_OF[rows.items] == 0
    assert (weights[~changing] == 1.0).all() and np.ptp(weights[changing]) > 0.5
    given, _ = recency_weights(rows, DOMAIN_OF, days[0])
    assert np.array_equal(weights[changing], given[changing])


@pytest.mark.parametrize("seed", range(5))
def test_auto_leaves_domains_alone_whose_items_do_not_change(seed) -> None:
    rows = rows_of(shop(0, np.random.default_rng(seed)))
    assert recency_weights(rows, DOMAIN_OF, "auto")[1] == [0.0, 0.0]


def test_likelihood_of_a_hand_computed_case() -> None:
    """Popularity weighed by age tells the last rows better where they repeat the newest others."""
    old = [[(1, 0.0, False), (1, 1.0, False)] for _ in range(8)]
    new = [[(2, 999.0, False), (2, 1000.0, False)] for _ in range(8)]
    # targets: item 1 eight times, item 2 eight times; half the users would lose what half gain
    assert recency_weights(rows_of(old + new), DOMAIN_OF, "auto")[1] == [0.0, 0.0]
    # all last rows are of item 2: log((1 + 8 w) / 9) with w = 2 / 1.1 for the newest of others
    users = [[(1, 0.0, False), (2, 1000.0, False)] for _ in range(8)] + new
    assert recency_weights(rows_of(users), DOMAIN_OF, "auto")[1][0] in HALF_LIVES
    hidden = [[(i, day, True) for i, day, _ in of_user] for of_user in users]  # inserted rows
    assert recency_weights(rows_of(hidden), DOMAIN_OF, "auto")[1] == [0.0, 0.0]
