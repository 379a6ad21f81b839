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


# (pool, items of it that the user has, candidates): the ways of drawing
SAMPLED, SOMETIMES_SHORT, ALWAYS_SHORT, PERMUTED = (
    (200, 10, 20), (130, 60, 22), (130, 85, 40), (12, 2, 3),
)  # fmt: skip


# --- one draw -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "owned", "n"), [SAMPLED, SOMETIMES_SHORT, ALWAYS_SHORT, PERMUTED], ids=str
)
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


@pytest.mark.parametrize(
    ("size", "owned", "n"), [SAMPLED, SOMETIMES_SHORT, ALWAYS_SHORT, PERMUTED], ids=str
)
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


def test_every_allowed_item_can_be_asked_for():
    assert sorted(sample([[1, 2, 3, 4, 5]], [[2, 2, 4]], [0], 3)[0]) == [1, 3, 5]


def test_too_small_a_pool_is_an_error_in_one_line():
    with pytest.raises(ProtocolError, match="offers only 3: use a smaller sample") as caught:
        sample([[1, 2, 3, 4, 5]], [[2, 2, 4]], [0], 4)
    assert "\n" not in str(caught.value)


def test_modes():
    assert sample_size("full") is None
    assert sample_size("uni100") == 100
    assert sample_size("uni999") == 999


@pytest.mark.parametrize("mode", ["uni", "uni0", "uni-1", "pop100", "uni100x", "", None, "Full"])
def test_unknown_modes_are_refused(mode):
    with pytest.raises(ConfigError, match="is not one of full"):
        sample_size(mode)


# --- of a dataset ---------------------------------------------------------------------------------


def by_token(dataset, phase="test", mode="uni10") -> dict[str, list[str]]:
    """Candidates of every user, as tokens: ids differ between raw and augmented data."""
    users = dataset.id2token(dataset.uid_field, dataset.split.users)
    candidates = dataset.id2token(dataset.iid_field, dataset.sampled_candidates(phase, mode))
    return {str(user): [str(i) for i in row] for user, row in zip(users, candidates, strict=True)}


@pytest.fixture(scope="module")
def shop(make_shop):
    return make_shop(seed=3, n_users=60)


@pytest.fixture(scope="module")
def raw(shop, write_dataset, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("raw"), shop)


@pytest.fixture(scope="module")
def augmented(shop, augmented_shop, write_dataset, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("augmented"), augmented_shop(shop))


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
@pytest.mark.parametrize("mode", ["uni5", "uni10"])
def test_candidates_are_the_same_for_every_model_and_seed(raw, load, phase, mode):
    expected = by_token(load(raw), phase, mode)
    for model in ("LLMEDTPretrain", "SASRec", "GRU4Rec", "BERT4Rec"):
        assert by_token(load(raw, model), phase, mode) == expected
    assert by_token(load(raw, seed=46, MAX_ITEM_LIST_LENGTH=3), phase, mode) == expected


@pytest.mark.parametrize("phase", ["valid", "test"])
@pytest.mark.parametrize("augmentation", [False, True])
@pytest.mark.parametrize("model", ["LLMEDT", "SASRec"])
def test_candidates_are_the_same_with_and_without_augmentation(
    raw, augmented, load, phase, augmentation, model
):
    expected = by_token(load(raw), phase)
    assert by_token(load(augmented, model, augmentation=augmentation), phase) == expected


def test_candidates_do_not_depend_on_which_domain_is_named_first(raw, load):
    expected = by_token(load(raw))
    assert by_token(load(raw, domains=["bike", "art"])) == expected


def test_candidates_do_not_depend_on_the_order_of_the_files(
    raw, shop, write_dataset, load, tmp_path
):
    other = write_dataset(tmp_path, rows=sorted(shop.rows), items=sorted(shop.items))
    assert by_token(load(other)) == by_token(load(raw))


def test_the_candidate_seed_and_nothing_else_draws_others(raw, load):
    dataset = load(raw, candidate_seed=7)
    assert by_token(dataset) == by_token(load(raw, candidate_seed=7, seed=1))
    assert by_token(dataset) == by_token(dataset)
    assert by_token(dataset) != by_token(load(raw))


def test_validation_and_test_draw_apart(raw, load):
    dataset = load(raw)
    assert by_token(dataset, "valid") != by_token(dataset, "test")


def test_full_mode_samples_nothing(raw, load):
    assert load(raw).sampled_candidates("test", "full") is None


@pytest.mark.parametrize("phase", ["valid", "test"])
def test_too_few_items_for_the_sample(raw, load, phase):
    with pytest.raises(ProtocolError, match="uni30 needs 30 items"):
        load(raw).sampled_candidates(phase, "uni30")


# --- the real data --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def augmented_real(real_data, tmp_path_factory):
    """The real clothing and sport data with generated items and inserted rows."""
    rng = random.Random(5)
    source, target = real_data / "cloth_sport", tmp_path_factory.mktemp("real") / "cloth_sport"
    target.mkdir()
    header, *items = (source / "cloth_sport.item").read_text(encoding="utf-8").splitlines()
    columns = header.split("\t")
    rows = [line.split("\t") for line in items]
    place = [columns.index("item_id:token"), columns.index("domain:token")]
    listed = [(row[place[0]], row[place[1]], "0") for row in rows]
    generated = [(f"0{domain}{i}", domain, "1") for domain in ("cloth", "sport") for i in range(50)]
    rng.shuffle(listed)
    lines = ["item_id:token\tdomain:token\tgenerated:token"]
    lines += ["\t".join(row) for row in generated + listed]
    (target / "cloth_sport.item").write_text("\n".join(lines) + "\n", encoding="utf-8")

    header, *inter = (source / "cloth_sport.inter").read_text(encoding="utf-8").splitlines()
    columns = header.split("\t")
    user, item, position = (
        columns.index(name) for name in ("user_id:token", "item_id:token", "position:float")
    )
    new = [item for item, *_ in generated]
    first: dict[str, tuple[float, str]] = {}
    lines = []
    for line in inter:
        row = line.split("\t")
        lines.append((row[user], row[item], "0", row[position], "0"))
        entry = (float(row[position]), row[user])
        first[row[user]] = min(first.get(row[user], entry), entry)
    for before, name in first.values():
        if rng.random() < 0.5:
            lines.append((name, rng.choice(new), "0", str(before - 1), "1"))
    rng.shuffle(lines)
    text = ["user_id:token\titem_id:token\ttimestamp:float\tposition:float\taugmented:token"]
    text += ["\t".join(row) for row in lines]
    (target / "cloth_sport.inter").write_text("\n".join(text) + "\n", encoding="utf-8")
    return target.parent


def test_candidates_of_the_real_data_are_the_same_for_all(real_data, augmented_real, load):
    options = {"dataset": "cloth_sport"}
    dataset = load(real_data, **options)
    expected = {phase: by_token(dataset, phase, "uni100") for phase in ("valid", "test")}
    others = [
        load(real_data, "SASRec", seed=44, **options),
        load(augmented_real, "LLMEDT", augmentation=True, **options),
        load(augmented_real, "GRU4Rec", augmentation=False, **options),
    ]
    assert others[1].sequences.augmented.sum() > 3000
    for other in others:
        for phase in ("valid", "test"):
            assert by_token(other, phase, "uni100") == expected[phase]

    tokens = dataset.id2token("item_id", np.arange(dataset.item_num))
    item_domain = dict(zip(tokens, dataset.item_domain, strict=True))
    rows, split = dataset.sequences, dataset.split
    for at in range(0, len(split.users), 97):
        token = str(dataset.id2token("user_id", int(split.users[at])))
        start, test = rows.offsets[split.users[at]], split.test_rows[at]
        history = set(dataset.id2token("item_id", rows.items[start : test + 1]))
        row = expected["test"][token]
        assert len(set(row)) == 100 and not history & set(row)
        assert {item_domain[item] for item in row} == {dataset.item_domain[rows.items[test]]}
