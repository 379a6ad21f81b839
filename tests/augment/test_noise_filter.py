"""Noise filter: eq. 5 (best matches) and eq. 6 (what is transferable), by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_edt.augment.noise_filter import (
    best_matches,
    keep_transferable,
    similarity_threshold,
)
from recbole_edt.errors import ConfigError, DataError

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=8)


# -- eq. 5 ----------------------------------------------------------------------------------------


def test_eq5_hand_computed() -> None:
    generated = np.array([[3.0, 4.0], [1.0, 0.0], [-1.0, -1.0]])
    representatives = np.array([[2.0, 0.0], [0.0, 5.0], [4.0, 3.0]])
    # cosines: [.6, .8, .96], [1, 0, .8], [-.7071, -.7071, -.98995]
    index, score = best_matches(generated, representatives)
    assert index.tolist() == [2, 0, 0]
    assert score == pytest.approx([0.96, 1.0, -np.sqrt(0.5)], abs=1e-8)


def test_length_of_vectors_plays_no_part() -> None:
    rng = np.random.default_rng(0)
    generated, representatives = rng.normal(size=(5, 7)), rng.normal(size=(4, 7))
    scaled = best_matches(generated * 1e-30, representatives * 1e30)
    for mine, plain in zip(scaled, best_matches(generated, representatives), strict=True):
        assert np.array_equal(mine, plain)


def test_matches_a_loop_over_pairs() -> None:
    rng = np.random.default_rng(1)
    generated = rng.normal(size=(6, 5)).astype(np.float32)
    representatives = rng.normal(size=(3, 5)).astype(np.float32)
    index, score = best_matches(generated, representatives)
    for i, item in enumerate(generated.astype(np.float64)):
        cosines = []
        for other in representatives.astype(np.float64):
            cosines.append(item @ other / np.sqrt((item @ item) * (other @ other)))
        assert index[i] == np.argmax(cosines)
        assert score[i] == pytest.approx(max(cosines), abs=1e-8)


def test_equal_representatives_tie_to_the_first_wherever_they_stand() -> None:
    rng = np.random.default_rng(2)
    item = rng.normal(size=(1, 384)).astype(np.float32)
    for n in range(1, 40):  # a matrix product's last bits depend on n
        index, score = best_matches(np.repeat(item, 3, axis=0), np.repeat(item, n, axis=0))
        assert index.tolist() == [0, 0, 0]
        assert score.tolist() == [1.0, 1.0, 1.0]


def test_zero_vector_is_similar_to_nothing() -> None:
    assert best_matches(np.zeros((1, 2)), np.eye(2))[1].tolist() == [0.0]
    assert best_matches(np.eye(2), np.zeros((1, 2)))[1].tolist() == [0.0, 0.0]


def test_no_generated_items_have_no_matches() -> None:
    index, score = best_matches(np.zeros((0, 3)), np.eye(3))
    assert index.shape == score.shape == (0,)


@pytest.mark.parametrize(
    ("generated", "representatives", "said"),
    [
        (np.eye(2), np.zeros((0, 2)), "no representative"),
        (np.eye(2), np.eye(3), "2 dimensions"),
        (np.ones(2), np.eye(2), "matrices"),
        (np.array([[np.nan, 1.0]]), np.eye(2), "not finite"),
        (np.eye(2), np.array([[np.inf, 1.0]]), "not finite"),
    ],
)
def test_bad_embeddings_are_refused_in_one_line(generated, representatives, said) -> None:
    with pytest.raises(DataError, match=said) as caught:
        best_matches(generated, representatives)
    assert "\n" not in str(caught.value)


# -- eq. 6 ----------------------------------------------------------------------------------------

SOURCE = np.array([0.95, 0.90, 0.85, 0.80, 0.70])
TARGET = np.array([0.50, 0.92, 0.90, 0.60, 0.99])


@pytest.mark.parametrize(
    ("k", "tau", "kept"),
    [
        (2, 0.90, [1, 2]),  # item 0 is nearest to the source but not to the target
        (1, 0.90, [1]),
        (3, 0.90, [1, 2, 4]),  # the score 0.90 itself passes
        (9, 0.90, [1, 2, 4]),
        (2, 0.0, [0, 1]),
        (5, 1.0, []),
        (0, 0.0, []),
    ],
)
def test_eq6_hand_computed(k: int, tau: float, kept: list[int]) -> None:
    mask = keep_transferable(SOURCE, TARGET, k, tau=tau)
    assert mask.dtype == bool
    assert np.flatnonzero(mask).tolist() == kept


def test_ranking_is_among_items_that_pass_tau() -> None:
    # ranked over all items first, k = 1 would choose item 0, which fails, and keep nothing
    assert keep_transferable(SOURCE, TARGET, 1, tau=0.9).tolist() == [False, True] + [False] * 3


@pytest.mark.parametrize(
    ("quantile", "tau"), [(0.0, 0.50), (0.25, 0.60), (0.5, 0.90), (0.6, 0.92), (1.0, 0.99)]
)
def test_tau_as_a_quantile_of_the_target_scores(quantile: float, tau: float) -> None:
    assert similarity_threshold(TARGET, quantile=quantile) == tau
    assert np.array_equal(
        keep_transferable(SOURCE, TARGET, 2, quantile=quantile),
        keep_transferable(SOURCE, TARGET, 2, tau=tau),
    )


def test_ties_keep_the_earlier_item() -> None:
    same = np.full(4, 0.7)
    assert keep_transferable(same, same, 2, tau=0.5).tolist() == [True, True, False, False]
    order = np.array([0.6, 0.7, 0.6, 0.6])
    assert keep_transferable(order, same, 2, tau=0.5).tolist() == [True, True, False, False]


def test_nothing_generated_keeps_nothing() -> None:
    empty = np.zeros(0)
    assert keep_transferable(empty, empty, 3, tau=0.9).shape == (0,)
    assert keep_transferable(empty, empty, 3, quantile=0.5).shape == (0,)


@settings(max_examples=60, deadline=None)
@given(scores=SCORES, k=st.integers(0, 9), quantile=st.floats(0, 1), data=st.data())
def test_kept_items_pass_and_beat_all_that_pass(scores, k, quantile, data) -> None:
    target = np.array(scores)
    source = np.array(data.draw(st.lists(
        st.sampled_from([0.1, 0.2, 0.3]), min_size=len(scores), max_size=len(scores)
    )))  # fmt: skip
    keep = keep_transferable(source, target, k, quantile=quantile)
    passing = target >= similarity_threshold(target, quantile=quantile)
    assert passing.any()
    assert keep.sum() == min(k, passing.sum())
    assert not (keep & ~passing).any()
    left = passing & ~keep
    if keep.any() and left.any():
        assert source[keep].min() >= source[left].max()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": -1, "tau": 0.9}, "-1 items"),
        ({"k": 1}, "either tau or a quantile"),
        ({"k": 1, "tau": 0.9, "quantile": 0.5}, "either tau or a quantile"),
        ({"k": 1, "quantile": 1.5}, "between 0 and 1"),
        ({"k": 1, "quantile": float("nan")}, "between 0 and 1"),
        ({"k": 1, "tau": float("nan")}, "not a number"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options, said) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        keep_transferable(SOURCE, TARGET, **options)
    assert "\n" not in str(caught.value)
