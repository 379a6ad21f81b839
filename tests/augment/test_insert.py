"""Who is balanced, how much is inserted, and where (eq. 1)."""

import numpy as np
import pytest
from histories import history

from recbole_edt.augment.filter import Matches
from recbole_edt.augment.generators import Task
from recbole_edt.augment.insert import balancing_tasks, insert
from recbole_edt.augment.settings import AugmentSettings


def tasks(counts, directions: str, min_history: int = 0, min_ratio: float = 0.0) -> list[Task]:
    settings = AugmentSettings(
        directions=directions, min_history=min_history, min_ratio=min_ratio
    )  # fmt: skip
    return balancing_tasks(np.array(counts), settings)


def test_both_directions_need_a_row_to_start_from() -> None:
    counts = [[9, 1], [0, 4], [3, 3], [0, 0]]
    shared = [Task(0, 0), Task(0, 1), Task(2, 0), Task(2, 1)]
    assert tasks(counts, "both", 1) == shared
    assert tasks(counts, "both") == sorted([*shared, Task(1, 0)])
    assert tasks(counts, "both", 2, 0.8) == [Task(0, 0)]  # r = 0.8, 1, 0


def test_everybody_gets_items_of_what_all_lack_and_of_what_they_lack() -> None:
    counts = [[9, 1], [1, 2], [3, 3], [0, 4]]  # 13 and 10: all lack domain 1
    expected = [Task(0, 1), Task(1, 0), Task(1, 1), Task(2, 1)]
    assert tasks(counts, "scarce", 1) == expected
    turned = tasks([row[::-1] for row in counts], "scarce", 1)
    assert sorted(turned) == sorted(Task(user, 1 - target) for user, target in expected)
    even = [[2, 1], [1, 2], [3, 3]]  # nothing that all lack
    assert tasks(even, "scarce", 1) == [Task(0, 1), Task(1, 0)]


def test_only_imbalanced_users_are_balanced_towards_what_they_lack() -> None:
    counts = [[9, 1], [0, 4], [3, 3], [0, 0], [10, 0]]
    assert tasks(counts, "minor", 0, 0.9) == [Task(1, 0), Task(4, 1)]
    assert tasks(counts, "minor") == [Task(0, 1), Task(1, 0), Task(4, 1)]
    assert tasks(counts, "minor", 1) == [Task(0, 1)]


@pytest.mark.parametrize(
    ("ratio", "inserted"),
    # ceil(1 * 0.8 * 4) = 4, at most 8;  ceil(1 * 1 * 10) = 10, at most 3
    [(1.0, [4, 3]), (0.3, [1, 3]), (0.0, [0, 0])],
)
def test_in_the_minor_direction_the_amount_grows_with_r_and_stops_at_balance(ratio, inserted):
    histories = history([[0] * 9 + [1], [0] * 3], np.array([0, 1]))
    settings = AugmentSettings(insert="end", inject_ratio=ratio, directions="minor")
    for user, n_kept, n in zip((0, 1), (4, 10), inserted, strict=True):
        places = np.arange(n_kept)
        one = Matches(Task(user, 1), places, places, np.ones(n_kept), np.ones(n_kept))
        assert len(insert(histories, [one], [places], settings).items) == n


@pytest.mark.parametrize(
    ("where", "ratio", "anchors", "items"),
    [
        ("anchor", 1.0, [0, 2], [2, 1]),
        ("end", 1.0, [3, 3], [1, 2]),
        ("end", 0.3, [3], [1]),  # ceil(0.3 * 2)
        ("end", 0.0, [], []),
    ],
)
def test_kept_items_follow_their_anchor(where, ratio, anchors, items) -> None:
    histories = history([[0, 0, 0, 0]], np.array([0, 1, 1]))
    one = Matches(
        Task(0, 1), np.array([1, 2]), np.array([2, 0]), np.array([0.9, 0.8]), np.ones(2)
    )  # fmt: skip
    settings = AugmentSettings(insert=where, inject_ratio=ratio)
    made = insert(histories, [one], [np.array([0, 1])], settings)
    assert (made.anchors.tolist(), made.items.tolist()) == (anchors, items)
