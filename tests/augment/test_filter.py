"""Noise filter: eq. 5 (best matches) and eq. 6 (what is transferable), by hand."""

import numpy as np
import pytest

from recbole_edt.augment.filter import Matches, best_matches, filter_items, transferable
from recbole_edt.augment.generators import Task
from recbole_edt.augment.settings import AugmentSettings


def matches(source, target) -> Matches:
    places = np.arange(len(source))
    return Matches(Task(0, 1), places, places, np.array(source), np.array(target))


def test_eq5_hand_computed() -> None:
    generated = np.array([[3.0, 4.0], [1.0, 0.0], [-1.0, -1.0]])
    representatives = np.array([[2.0, 0.0], [0.0, 5.0], [4.0, 3.0]])
    # cosines: [.6, .8, .96], [1, 0, .8], [-.7071, -.7071, -.98995]
    index, score = best_matches(generated, representatives)
    assert index.tolist() == [2, 0, 0]
    assert score == pytest.approx([0.96, 1.0, -np.sqrt(0.5)], abs=1e-8)


def test_equal_representatives_tie_to_the_first_wherever_they_stand() -> None:
    rng = np.random.default_rng(2)
    item = rng.normal(size=(1, 384)).astype(np.float32)
    for n in range(1, 40):  # a matrix product's last bits depend on n
        index, score = best_matches(np.repeat(item, 3, axis=0), np.repeat(item, n, axis=0))
        assert index.tolist() == [0, 0, 0]
        assert score.tolist() == [1.0, 1.0, 1.0]


def test_nothing_is_similar_to_a_zero_vector_and_nothing_has_no_matches() -> None:
    assert best_matches(np.zeros((1, 2)), np.eye(2))[1].tolist() == [0.0]
    assert best_matches(np.eye(2), np.zeros((1, 2)))[1].tolist() == [0.0, 0.0]
    index, score = best_matches(np.zeros((0, 3)), np.eye(3))
    assert index.shape == score.shape == (0,)


# Eq. 6

SOURCE = np.array([0.95, 0.90, 0.85, 0.80, 0.70])
TARGET = np.array([0.50, 0.92, 0.90, 0.60, 0.99])


@pytest.mark.parametrize(
    ("k", "tau", "kept"),
    [
        (2, 0.90, [1, 2]),  # item 0 is nearest to the source but not to the target
        (1, 0.90, [1]),  # ranked over all items first, item 0 would be chosen, and fail
        (3, 0.90, [1, 2, 4]),  # the score 0.90 itself passes
        (9, 0.90, [1, 2, 4]),
        (2, 0.0, [0, 1]),
        (5, 1.0, []),
    ],
)
def test_eq6_hand_computed(k: int, tau: float, kept: list[int]) -> None:
    assert transferable(SOURCE, TARGET, k, tau).tolist() == kept


@pytest.mark.parametrize(
    ("quantile", "tau"), [(0.0, 0.50), (0.25, 0.60), (0.5, 0.90), (0.6, 0.92), (1.0, 0.99)]
)
def test_tau_as_a_quantile_of_the_target_scores(quantile: float, tau: float) -> None:
    (kept,) = filter_items([matches(SOURCE, TARGET)], AugmentSettings(tau_quantile=quantile))
    assert sorted(kept) == np.flatnonzero(TARGET >= tau).tolist()


def test_one_quantile_holds_for_all_users() -> None:
    first, second = matches([0.1, 0.9], [0.8, 0.7]), matches([0.5, 0.6], [0.1, 0.2])
    kept = filter_items([first, second], AugmentSettings(tau_quantile=0.5))
    assert [places.tolist() for places in kept] == [[1, 0], []]
    everything = filter_items([first, second], AugmentSettings(filter="none"))
    assert [places.tolist() for places in everything] == [[0, 1], [0, 1]]
    assert filter_items([], AugmentSettings()) == []
