"""Candidates: raw items of the target's domain, the same for every model, seed and run."""

import random

import numpy as np
import pytest

from recbole_edt.data.candidates import sample_candidates, sample_size
from recbole_edt.errors import ConfigError, ProtocolError


def sample(pools, histories, domains, n, seed=0, chunk=4096) -> np.ndarray:
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in histories])])
    return sample_candidates(
        np.array(domains),
        [np.array(pool) for pool in pools],
        offsets,
        np.array([item for items in histories for item in items], dtype=np.int64),
        n,
        np.random.default_rng(seed),
        chunk,
    )


WAYS = pytest.mark.parametrize(
    ("size", "owned", "n"), [(200, 10, 20), (130, 60, 22), (130, 85, 40), (12, 2, 3)],
    ids=["sampled", "sometimes short", "always short", "permuted"],
)  # fmt: skip
"""Pool, items of it that the user has, candidates: the ways of drawing."""


@WAYS
def test_candidates_are_distinct_of_the_domain_and_outside_the_history(size, owned, n):
    rng = random.Random(1)
    pools = [range(1, size + 1), range(size + 1, 2 * size + 1)]
    rng.shuffle(shuffled := list(pools[0]))
    domains = [rng.randint(0, 1) for _ in range(80)]
    histories = [[item for pool in pools for item in rng.sample(pool, owned)] for _ in domains]
    drawn = sample([shuffled, list(pools[1])], histories, domains, n, chunk=32)
    assert drawn.shape == (80, n)
    for row, domain, history in zip(drawn.tolist(), domains, histories, strict=True):
        assert len(set(row)) == n
        assert set(row) <= set(pools[domain]) - set(history)


@WAYS
def test_candidates_are_uniform(size, owned, n):
    users, allowed = 2000, size - owned
    drawn = sample([range(1, size + 1)], [range(1, owned + 1)] * users, [0] * users, n)
    counts = np.bincount(drawn.ravel(), minlength=size + 1)[owned + 1 :]
    assert counts.sum() == users * n
    expected = users * n / allowed
    # drawn without replacement: counts vary less than a chi-square says by (1 - n / allowed)
    chi_square = ((counts - expected) ** 2 / expected).sum() / (1 - n / allowed)
    degrees = allowed - 1
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_every_allowed_item_can_be_drawn_and_no_more():
    assert sorted(sample([[1, 2, 3, 4, 5]], [[2, 2, 4]], [0], 3)[0]) == [1, 3, 5]
    with pytest.raises(ProtocolError, match="offers only 3: use a smaller sample") as caught:
        sample([[1, 2, 3, 4, 5]], [[2, 2, 4]], [0], 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["uni", "uni0", "uni-1", "pop100", "uni100x", "", None, "Full"])
def test_unknown_modes_are_refused(mode):
    with pytest.raises(ConfigError, match="is not one of full"):
        sample_size(mode)


def by_token(dataset, phase="test", mode="uni10") -> dict[str, list[str]]:
    """Candidates of every user, as tokens: ids differ between raw and augmented data."""
    users = dataset.id2token(dataset.uid_field, dataset.split.users)
    candidates = dataset.id2token(dataset.iid_field, dataset.sampled_candidates(phase, mode))
    return {str(user): [str(i) for i in row] for user, row in zip(users, candidates, strict=True)}


@pytest.mark.parametrize("augmentation", [False, True])
@pytest.mark.parametrize("phase", ["valid", "test"])
def test_candidates_are_raw_items_that_the_user_never_had(
    shop, augmented, load, phase, augmentation
):
    candidates = by_token(load(augmented, augmentation=augmentation), phase)
    domain_of, histories = shop.domain_of(), shop.raw_sequences()
    assert set(candidates) == {user for user, items in histories.items() if len(items) >= 3}
    for user, row in candidates.items():
        target = histories[user][-1 if phase == "test" else -2]
        assert len(set(row)) == len(row) == 10
        assert {domain_of[item] for item in row} == {domain_of[target]}  # raw: in the raw shop
        assert not set(row) & set(histories[user])  # held-out rows included


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_candidates_are_the_same_for_every_model_seed_and_form_of_the_data(
    raw, augmented, shop, write_dataset, load, tmp_path, phase
):
    expected = by_token(load(raw), phase)
    for model in ("LLMEDTPretrain", "SASRec", "BERT4Rec"):
        assert by_token(load(raw, model), phase) == expected
    assert by_token(load(raw, seed=46, MAX_ITEM_LIST_LENGTH=3), phase) == expected
    for model, augmentation in (("LLMEDT", True), ("LLMEDT", False), ("SASRec", True)):
        assert by_token(load(augmented, model, augmentation=augmentation), phase) == expected
    assert by_token(load(raw, domains=["bike", "art"]), phase) == expected
    sorted_files = write_dataset(tmp_path, rows=sorted(shop.rows), items=sorted(shop.items))
    assert by_token(load(sorted_files), phase) == expected


def test_the_candidate_seed_and_the_phase_and_nothing_else_draw_others(raw, load):
    dataset = load(raw, candidate_seed=7)
    assert by_token(dataset) == by_token(dataset) == by_token(load(raw, candidate_seed=7, seed=1))
    assert by_token(dataset) != by_token(load(raw))
    assert by_token(dataset, "valid") != by_token(dataset, "test")
    assert dataset.sampled_candidates("test", "full") is None
