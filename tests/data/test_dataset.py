"""The dataset: atomic files in, leak-free views out, RecBole's own form of them."""

from collections import Counter

import numpy as np
import pytest

from recbole_edt.augment.histories import read_histories
from recbole_edt.data import sequences
from recbole_edt.data.dataset import (
    AUGMENTED_LIST,
    TARGET_DOMAIN,
    CrossDomainDataset,
    domain_fields,
)
from recbole_edt.errors import DataError, ProtocolError


def sequences_of(dataset: CrossDomainDataset) -> dict[str, list[str]]:
    """All rows of every user, as tokens."""
    rows, out = dataset.sequences, {}
    items = dataset.id2token(dataset.iid_field, rows.items).tolist()
    for user in range(1, dataset.user_num):
        token = str(dataset.id2token(dataset.uid_field, user))
        out[token] = items[rows.offsets[user] : rows.offsets[user + 1]]
    return out


def view_rows(dataset, view, list_field="item_id_list", length_field="item_length") -> list:
    """Rows of a view as (user, input items, target item) in tokens."""
    feat, out = view.inter_feat, []
    columns = (feat["user_id"], feat[list_field], feat[length_field], feat["item_id"])
    for user, items, length, target in zip(*(column.tolist() for column in columns), strict=True):
        assert not any(items[length:])  # padded on the right with zeros
        out.append(
            (
                str(dataset.id2token("user_id", user)),
                tuple(map(str, dataset.id2token("item_id", items[:length]))),
                str(dataset.id2token("item_id", target)),
            )
        )
    return out


def test_sequences_follow_position(shop, raw, load):
    assert sequences_of(load(raw)) == shop.raw_sequences()


def test_positions_are_read_in_double_precision(write_dataset, load, tmp_path):
    """As float32, 2^24 and 2^24 + 1 are one number, and so are all these timestamps."""
    large = 2**24
    rows = [("u", item, 1_400_000_000 + 9 - at, large + at) for at, item in enumerate("abcd")]
    items = [(item, domain) for item, domain in zip("abcd", "xyxy", strict=True)]
    dataset = load(write_dataset(tmp_path, rows=rows[::-1], items=items))
    assert sequences_of(dataset) == {"u": ["a", "b", "c", "d"]}


def test_without_positions_rows_follow_their_times_and_ties_the_file(write_dataset, load, tmp_path):
    rows = [("u", "b", 9), ("u", "a", 1_400_000_001), ("v", "b", 3), ("u", "d", 1_400_000_000),
            ("u", "c", 9)]  # fmt: skip
    items = [(item, domain) for item, domain in zip("abcd", "xyxy", strict=True)]
    folder = write_dataset(tmp_path, rows=rows, items=items)
    dataset = load(folder)
    assert sequences_of(dataset) == {"u": ["b", "c", "d", "a"], "v": ["b"]}
    assert "ordered by timestamp" in dataset.notes[0]
    found = read_histories(folder / "tiny", "tiny").inter
    assert found["item_id"].tolist() == ["b", "c", "d", "a", "b"]
    assert found["position"].tolist() == [1, 2, 3, 4, 1]


def test_a_number_that_cannot_be_read_is_named_with_its_row(write_dataset, load, tmp_path):
    rows = [("u", item, time) for item, time in (("a", "7"), ("b", "nan"), ("a", "1,5"))]
    folder = write_dataset(tmp_path, rows=rows, items=[("a", "x"), ("b", "y")])
    with pytest.raises(DataError, match=r"tiny.inter: row 3 has '1,5' in timestamp, which is no"):
        load(folder)


def test_domains_are_alphabetical_or_as_configured(shop, raw, load):
    dataset, swapped = load(raw), load(raw, domains=["bike", "art"])
    assert (dataset.domains, swapped.domains) == (["art", "bike"], ["bike", "art"])
    domain_of = shop.domain_of()
    for one in (dataset, swapped):
        assert one.item_domain[0] == -1
        for item in range(1, one.item_num):
            token = one.id2token("item_id", item)
            assert one.domains[one.item_domain[item]] == domain_of[token]


def test_without_augmentation_the_data_are_the_raw_data(shop, augmented, load):
    dataset = load(augmented, augmentation=False)
    assert sequences_of(dataset) == shop.raw_sequences()
    assert dataset.item_num == 1 + len(shop.items)
    assert not dataset.item_generated.any() and not dataset.sequences.augmented.any()


def test_with_augmentation_inserted_rows_are_trained_on(more, augmented, load):
    dataset = load(augmented, augmentation=True)
    inserted = [row for row in more.rows if row[4] == "1"]
    assert dataset.sequences.augmented.sum() == len(inserted) > 20
    assert dataset.train_sequences.augmented.sum() == len(inserted)
    generated = {item for item, _, flag in more.items if flag == "1"}
    found = dataset.id2token("item_id", np.flatnonzero(dataset.item_generated))
    assert set(found) == generated
    rows = sorted((row for row in more.rows if row[0] == "u3"), key=lambda row: row[3])
    assert sequences_of(dataset)["u3"] == [row[1] for row in rows]


def seen_at_evaluation(view) -> dict[str, list]:
    """Per user the target, its domain, and the tokens of the mixed and the domains' histories."""
    names = [name for name in view.inter_feat.columns if name.startswith("item_id_list")]
    lists = [view.id2token("item_id", view.inter_feat[name].numpy()).tolist() for name in names]
    targets = view.id2token("item_id", view.inter_feat["item_id"].numpy()).tolist()
    users = view.id2token("user_id", view.inter_feat["user_id"].numpy()).tolist()
    domains = view.inter_feat["target_domain"].tolist()
    return dict(zip(users, zip(targets, domains, *lists, strict=True), strict=True))


def test_users_may_be_known_by_their_raw_rows_alone(augmented, load):
    """Then evaluation is that of the raw data, though training is not."""
    mixed = load(augmented, augmentation=True, augmented_histories=False)
    assert mixed.train_sequences.augmented.any()
    _, *views = mixed.build()
    _, *plain = load(augmented, augmentation=False).build()
    _, *inserted = load(augmented, augmentation=True, augmented_histories=True).build()
    for mine, raw, other in zip(views, plain, inserted, strict=True):
        assert seen_at_evaluation(mine) == seen_at_evaluation(raw) != seen_at_evaluation(other)


def test_nobody_to_evaluate_on(write_dataset, load, tmp_path):
    rows = [("u", "a", 0, 0), ("u", "b", 0, 1), ("v", "b", 0, 0)]
    folder = write_dataset(tmp_path, rows=rows, items=[("a", "x"), ("b", "y")])
    with pytest.raises(DataError, match="no user has three raw rows"):
        load(folder)


@pytest.mark.parametrize("place", ["between", "behind"])
def test_a_planted_row_behind_the_validation_row_is_refused(
    shop, more, write_dataset, load, tmp_path, place
):
    user = next(user for user, items in shop.raw_sequences().items() if len(items) >= 3)
    last = len(shop.raw_sequences()[user]) - 1
    planted = (user, "art0", 0, last - 0.5 if place == "between" else last + 1, "1")
    folder = write_dataset(tmp_path, more, rows=[*more.rows, planted])
    with pytest.raises(ProtocolError, match="1 users have augmented rows after"):
        load(folder)
    assert sequences_of(load(folder, augmentation=False)) == shop.raw_sequences()


def test_a_generated_item_cannot_be_a_target(shop, more, write_dataset, load, tmp_path):
    """As a raw last row it would be one; marked as augmented it would stand behind."""
    user = next(user for user, items in shop.raw_sequences().items() if len(items) >= 3)
    for flag, error in (("0", DataError), ("1", ProtocolError)):
        row = (user, "aart0", 0, 99, flag)
        folder = write_dataset(tmp_path / flag, more, rows=[*more.rows, row])
        with pytest.raises(error):
            load(folder)


@pytest.fixture
def embedded(more, write_dataset, tmp_path):
    """An augmented dataset whose embeddings count the lines of its files from 1."""
    lines = np.arange(1, len(more.items) + 1, dtype=np.float16)
    users = ["u5", "u1", "stranger", "u2"]
    user_emb = np.array([[5.0], [1.0], [-1.0], [2.0]])
    return write_dataset(
        tmp_path / "embedded",
        more,
        users=users,
        item_emb=np.stack([lines, -lines], axis=1),
        user_emb=user_emb,
    )


@pytest.mark.parametrize("augmentation", [True, False])
def test_an_item_gets_the_row_of_its_line(more, embedded, load, augmentation):
    dataset = load(embedded, augmentation=augmentation)
    matrix = dataset.item_table().whole()
    assert matrix.dtype == np.float32 and matrix.shape == (dataset.item_num, 2)
    assert not matrix[0].any()
    line_of = {item: line for line, (item, *_) in enumerate(more.items, start=1)}
    for item in range(1, dataset.item_num):  # generated ones too, where they are loaded
        line = line_of[dataset.id2token("item_id", item)]
        assert matrix[item].tolist() == [line, -line]


def test_a_user_gets_their_profile_and_others_zeros(embedded, load):
    dataset = load(embedded)
    matrix = dataset.user_table().whole()
    assert matrix.dtype == np.float32 and matrix.shape == (dataset.user_num, 1)
    known = {"u5": 5.0, "u1": 1.0, "u2": 2.0, "stranger": -1.0}
    tokens = dataset.id2token("user_id", np.arange(dataset.user_num))
    assert matrix[:, 0].tolist() == [known.get(token, 0.0) for token in tokens]


def test_profiles_may_be_missing_but_not_their_users(raw, shop, write_dataset, load, tmp_path):
    assert load(raw).user_table() is None
    folder = write_dataset(tmp_path, shop, user_emb=np.ones((3, 2)))
    with pytest.raises(DataError, match=r"no tiny\.user beside it"):
        load(folder).user_table()


@pytest.mark.parametrize("width", [3, 50])
def test_views_are_what_the_sequences_say(shop, raw, load, width):
    dataset = load(raw, "SASRec", MAX_ITEM_LIST_LENGTH=width)
    train, valid, test = dataset.build()
    expected = {"train": [], "valid": [], "test": []}
    for user, items in shop.raw_sequences().items():
        n = len(items)
        stops = range(1, n - 2 if n >= 3 else n)
        expected["train"] += [(user, tuple(items[max(0, s - width) : s]), items[s]) for s in stops]
        if n >= 3:
            for phase, stop in (("valid", n - 2), ("test", n - 1)):
                inputs = tuple(items[max(0, stop - width) : stop])
                expected[phase].append((user, inputs, items[stop]))
    for phase, view in (("train", train), ("valid", valid), ("test", test)):
        assert sorted(view_rows(dataset, view)) == sorted(expected[phase])


@pytest.mark.parametrize(("model", "skipped"), [("LLMEDT", 1), ("SASRec", 1), ("BPR", 0)])
def test_a_dataset_of_which_loaders_were_made_counts_all_its_rows(raw, load, model, skipped):
    data = load(raw, model)
    items = np.asarray(data.inter_feat["item_id"])
    first = data.sequences.offsets[:-1][np.diff(data.sequences.offsets) > 0]
    lists = [data.sequences.items[first]] * skipped  # which no prefix is before
    counts = Counter(items.tolist()) - Counter(np.concatenate([[0], *lists]).tolist())
    train, *_ = data.build()
    assert data.counter("item_id") == counts and data.inter_num == counts.total()
    assert data.inter_matrix().sum() > train.inter_matrix().sum() > 0
    user = data["user_id"][-1]
    last = data.sequences.items[data.sequences.offsets[user + 1] - 1]
    assert data[data["user_id"] == user]["item_id"][-1] == last


def test_the_prefixes_of_all_rows_are_made_when_they_are_asked_for(raw, load, monkeypatch):
    made, prefix_rows = [], sequences.prefix_rows
    monkeypatch.setattr(
        sequences,
        "prefix_rows",
        lambda *args: made.append(len(args[0].items)) or prefix_rows(*args),
    )
    data = load(raw)
    data.build()
    assert made == [len(data.train_sequences.items)]
    assert data.inter_num == len(data.inter_feat) and data.inter_matrix().sum() > 0
    assert made[1:] == [len(data.sequences.items)]


def test_a_column_is_taken_by_its_name_and_rows_with_what_their_items_have(raw, load):
    test = load(raw).build()[2]
    users = test["user_id"]
    assert users.tolist() == test.inter_feat["user_id"].tolist()
    assert "domain" in test[np.isin(users.numpy(), users[:2])]


@pytest.mark.parametrize("width", [3, 50])
def test_evaluation_rows_carry_all_sequences_and_mark_what_was_inserted(
    more, augmented, load, width
):
    dataset = load(augmented, MAX_ITEM_LIST_LENGTH=width, augmented_histories=True)
    domain_of, rows = more.domain_of(), sorted(more.rows, key=lambda row: row[3])
    for held_out, view in zip((2, 1), dataset.build()[1:], strict=True):
        feat = view.inter_feat
        for domain in (None, 0, 1):
            fields = () if domain is None else domain_fields(domain)
            marks = feat[AUGMENTED_LIST if domain is None else f"{AUGMENTED_LIST}_{domain}"]
            for at, (user, found, target) in enumerate(view_rows(dataset, view, *fields)):
                *history, last = [row for row in rows if row[0] == user][: 1 - held_out or None]
                assert target == last[1]
                seen = [
                    row for row in history
                    if domain is None or domain_of[row[1]] == dataset.domains[domain]
                ][-width:]  # fmt: skip
                assert list(found) == [row[1] for row in seen]
                marked = [row[4] == "1" for row in seen]
                assert marks[at].tolist() == marked + [False] * (width - len(seen))
        targets = feat["item_id"].numpy()
        assert feat[TARGET_DOMAIN].tolist() == dataset.item_domain[targets].tolist()


ODD = ['"quoted"', "NA", "nan", "null", "'tis", 'inch"', "None", "1.0", "01", "1"]
DIGITS = ["007", "7", "10", "08"]  # a column of digits alone is what a reader takes for numbers


@pytest.mark.parametrize("names", [ODD, DIGITS, [*DIGITS, "1e1"]])
def test_tokens_are_read_to_the_letter_and_keep_their_vectors(write_dataset, load, tmp_path, names):
    items = [(name, ("N/A", '"b"')[at % 2]) for at, name in enumerate(names)]
    rows = [("01", name, 0, at) for at, name in enumerate(names)]
    rows += [("1", name, 0, at) for at, name in enumerate(names[::-1])]
    vectors = np.arange(2 * len(names), dtype=np.float32).reshape(-1, 2)
    dataset = load(write_dataset(tmp_path, rows=rows, items=items, item_emb=vectors))
    assert sequences_of(dataset) == {"01": names, "1": names[::-1]}
    assert dataset.domains == ['"b"', "N/A"]
    assert np.array_equal(dataset.item_table()[dataset.token2id("item_id", names)], vectors)
