"""Who is balanced, how much is inserted, and where (eq. 1)."""

from __future__ import annotations

import numpy as np
import pytest
from histories import history

from recbole_edt.augment.filter import Matches
from recbole_edt.augment.generators import Task
from recbole_edt.augment.insert import amounts, balancing_tasks, insert
from recbole_edt.augment.settings import AugmentSettings


def balance(directions: str, min_history: int = 0, min_ratio: float = 0.0, **more):
    return AugmentSettings(
        directions=directions, min_history=min_history, min_ratio=min_ratio, **more
    )


def test_only_imbalanced_users_are_balanced_towards_what_they_lack() -> None:
    counts = np.array([[9, 1], [0, 4], [3, 3], [0, 0], [10, 0]])
    assert balancing_tasks(counts, balance("minor", 0, 0.9)) == [Task(1, 0), Task(4, 1)]
    everybody = [Task(0, 1), Task(1, 0), Task(4, 1)]
    assert balancing_tasks(counts, balance("minor")) == everybody
    assert balancing_tasks(counts, balance("minor", 1)) == [Task(0, 1)]


def test_both_directions_need_a_row_to_start_from() -> None:
    counts = np.array([[9, 1], [0, 4], [3, 3], [0, 0]])
    shared = [Task(0, 0), Task(0, 1), Task(2, 0), Task(2, 1)]
    assert balancing_tasks(counts, balance("both", 1)) == shared
    assert balancing_tasks(counts, balance("both")) == sorted([*shared, Task(1, 0)])
    assert balancing_tasks(counts, balance("both", 2, 0.8)) == [Task(0, 0)]  # r = 0.8, 1, 0


def test_everybody_gets_items_of_what_all_lack_and_of_what_they_lack() -> None:
    counts = np.array([[9, 1], [1, 2], [3, 3], [0, 4]])  # 13 and 10: all lack domain 1
    expected = [Task(0, 1), Task(1, 0), Task(1, 1), Task(2, 1)]
    assert balancing_tasks(counts, balance("scarce", 1)) == expected
    assert sorted(balancing_tasks(counts[:, ::-1], balance("scarce", 1))) == sorted(
        Task(user, 1 - target) for user, target in expected
    )
    even = np.array([[2, 1], [1, 2], [3, 3]])  # nothing that all lack
    assert balancing_tasks(even, balance("scarce", 1)) == [Task(0, 1), Task(1, 0)]


@pytest.mark.parametrize(
    ("inject_ratio", "inserted"),
    # ceil(1 * 0.8 * 4) = 4, at most 8;  ceil(1 * 1 * 10) = 10, at most 3;  10 of 10, at most 20
    [(1.0, [4, 3, 10]), (0.3, [1, 3, 3]), (0.0, [0, 0, 0])],
)
def test_in_the_minor_direction_the_amount_grows_with_imbalance_and_stops_at_balance(
    inject_ratio, inserted
) -> None:
    counts = np.array([[9, 1], [3, 0], [20, 0]])
    tasks = [Task(0, 1), Task(1, 1), Task(2, 1)]
    settings = balance("minor", inject_ratio=inject_ratio)
    assert amounts(counts, tasks, [4, 10, 10], settings).tolist() == inserted


@pytest.mark.parametrize("directions", ["both", "scarce"])
def test_in_other_directions_the_amount_is_a_share_of_what_was_kept(directions) -> None:
    counts, tasks = np.array([[3, 3]]), [Task(0, 0), Task(0, 1)]
    for ratio, inserted in ((1.0, [4, 3]), (0.3, [2, 1])):
        settings = balance(directions, inject_ratio=ratio)
        assert amounts(counts, tasks, [4, 3], settings).tolist() == inserted


@pytest.mark.parametrize(("where", "anchors"), [("anchor", [0, 2]), ("end", [3, 3])])
def test_items_follow_their_anchor(where: str, anchors: list[int]) -> None:
    histories = history([[0, 0, 0, 0]], np.array([0, 1, 1]))
    one = Matches(np.array([2, 0]), np.array([0.9, 0.8]), np.array([1.0, 1.0]))
    settings = AugmentSettings(insert=where)
    kept = [np.array([0, 1])]
    made = insert(histories, [Task(0, 1)], [np.array([1, 2])], [one], kept, settings)
    assert made.anchors.tolist() == anchors
    assert made.items.tolist() == ([2, 1] if where == "anchor" else [1, 2])
