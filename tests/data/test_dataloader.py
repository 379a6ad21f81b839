"""Loaders: whole windows for training, targets with their numbers for evaluation."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_edt.data.dataloader import (
    AUGMENTED,
    NEGATIVES,
    OWNED,
    SEQUENCE,
    EvaluationLoader,
    SequenceLoader,
    domain_sequence_fields,
)
from recbole_edt.data.dataset import AUGMENTED_LIST, domain_fields
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.quick_start import make_loaders


@pytest.fixture(scope="module")
def make_train(make_shop, augmented_shop, write_dataset, load):
    """Make a training loader over a random shop with inserted rows."""

    def make(seed=0, shop=None, **overrides) -> SequenceLoader:
        shop = shop or augmented_shop(make_shop(seed, n_users=25, lengths=(1, 14)), seed)
        with tempfile.TemporaryDirectory() as folder:
            dataset = load(write_dataset(Path(folder), shop), **overrides)
        train = make_loaders(dataset.config, dataset)[0]
        assert isinstance(train, SequenceLoader)
        return train

    return make


def dump(loader, epoch: int) -> list[dict[str, list]]:
    loader.set_epoch(epoch)
    return [{name: field.tolist() for name, field in batch.interaction.items()} for batch in loader]


OPTIONS = {
    "seed": st.integers(0, 30),
    "length": st.integers(1, 12),
    "batch": st.integers(1, 40),
    "shuffle": st.booleans(),
}


# --- training batches -----------------------------------------------------------------------------


@settings(max_examples=20)
@given(**OPTIONS)
def test_an_epoch_covers_every_window_once(make_train, seed, length, batch, shuffle):
    train = make_train(seed, MAX_ITEM_LIST_LENGTH=length, train_batch_size=batch, shuffle=shuffle)
    rows, windows = train.dataset.train_sequences, train.dataset.windows()
    expected = sorted(
        (user, rows.items[start : stop + 1].tolist(), bool(stop + 1 == rows.offsets[user + 1]))
        for user, start, stop in zip(windows.users, windows.starts, windows.stops, strict=True)
    )
    found, batches = [], dump(train, 3)
    for fields in batches:
        columns = (fields["user_id"], fields[SEQUENCE], fields["last"])
        for user, items, last in zip(*columns, strict=True):
            filled = [item for item in items if item]
            assert items == filled + [0] * (len(items) - len(filled))  # padded on the right
            found.append((user, filled, last))
    assert sorted(found) == expected
    assert len(batches) == len(train)


def test_what_is_of_a_domain_is_made_when_it_is_asked_for(make_train, monkeypatch):
    train = make_train(MAX_ITEM_LIST_LENGTH=6)
    expected = {name: field.clone() for name, field in next(iter(train)).interaction.items()}
    cuts = []
    cut = train._domain_fields
    monkeypatch.setattr(train, "_domain_fields", lambda *rest: cuts.append(1) or cut(*rest))
    batch = next(iter(train)).to("cpu")
    assert torch.equal(batch["sequence"], expected["sequence"])
    assert not cuts
    assert torch.equal(batch["sequence_1"], expected["sequence_1"])
    assert torch.equal(batch["place_0"], expected["place_0"])
    assert len(cuts) == 2  # each domain's once
    assert {*batch.columns} == {*expected}
    two = next(iter(train))[:2]
    assert {name: len(two[name]) for name in ("sequence", "augmented_0")} == {
        "sequence": 2,
        "augmented_0": 2,
    }
    with pytest.raises(KeyError):
        batch["colour"]


@settings(max_examples=20)
@given(**OPTIONS)
def test_batches_are_trimmed(make_train, seed, length, batch, shuffle):
    train = make_train(seed, MAX_ITEM_LIST_LENGTH=length, train_batch_size=batch, shuffle=shuffle)
    for fields in train:
        assert fields[SEQUENCE].shape[1] <= length + 1
        assert (fields[SEQUENCE][:, -1] > 0).any()
        for domain in (0, 1):
            sub_sequence = fields[domain_sequence_fields(domain)[0]]
            assert sub_sequence.shape[1] == 1 or (sub_sequence[:, -1] > 0).any()


@settings(max_examples=20)
@given(**OPTIONS)
def test_a_target_stands_at_its_place_in_its_domain(make_train, seed, length, batch, shuffle):
    train = make_train(seed, MAX_ITEM_LIST_LENGTH=length, train_batch_size=batch, shuffle=shuffle)
    item_domain = torch.from_numpy(train.dataset.item_domain)
    rows = train.dataset.train_sequences
    for fields in train:
        targets = fields[SEQUENCE][:, 1:]
        for domain in (0, 1):
            name, place_name = domain_sequence_fields(domain)
            sub_sequence, place = fields[name], fields[place_name]
            mine = (targets > 0) & (item_domain[targets] == domain)
            assert place.shape == targets.shape
            assert ((place >= 0) == mine).all()
            row, column = torch.nonzero(mine, as_tuple=True)
            assert (sub_sequence[row, place[row, column]] == targets[row, column]).all()

        # the sub-sequence is the user's own, whole, as far as the width and the last target reach
        for at, user in enumerate(fields["user_id"].tolist()):
            items = rows.items[slice(*rows.offsets[user : user + 2])]
            if not fields["last"][at]:
                continue
            for domain in (0, 1):
                found = fields[domain_sequence_fields(domain)[0]][at]
                expected = items[train.dataset.item_domain[items] == domain][-length - 1 :]
                assert found[found > 0].tolist() == expected.tolist()


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_an_epoch_depends_on_the_seed_and_its_number_alone(make_train, loss):
    one = make_train(seed=4, loss=loss, n_negatives=6, train_batch_size=8)
    other = make_train(seed=4, loss=loss, n_negatives=6, train_batch_size=8)
    torch.manual_seed(1)
    np.random.seed(1)
    dump(one, 0)
    first = dump(one, 7)
    torch.manual_seed(2)
    assert dump(other, 7) == first
    assert dump(one, 7) == first
    assert dump(one, 8) != first


def test_another_seed_draws_another_epoch(write_dataset, load, tmp_path):
    folder = write_dataset(tmp_path)
    epochs = []
    for seed in (42, 42, 43):
        dataset = load(folder, seed=seed)
        epochs.append(dump(make_loaders(dataset.config, dataset)[0], 0))
    assert epochs[0] == epochs[1] != epochs[2]


@settings(max_examples=10)
@given(seed=st.integers(0, 30))
def test_one_negative_per_target(make_train, seed):
    train = make_train(seed, loss="bpr")
    item_domain = torch.from_numpy(train.dataset.item_domain)
    rows = train.dataset.train_sequences
    for fields in train:
        targets, negatives = fields[SEQUENCE][:, 1:], fields[NEGATIVES]
        assert ((negatives > 0) == (targets > 0)).all()
        assert (item_domain[negatives] == item_domain[targets]).all()
        for user, drawn in zip(fields["user_id"].tolist(), negatives.tolist(), strict=True):
            assert not set(drawn) & set(rows.items[slice(*rows.offsets[user : user + 2])].tolist())


def test_shared_negatives_per_domain(make_train):
    train = make_train(seed=6, loss="softmax", n_negatives=7)
    rows = train.dataset.train_sequences
    for fields in train:
        for domain in (0, 1):
            shared = fields[f"{NEGATIVES}_{domain}"]
            assert len(set(shared.tolist())) == 7
            assert (train.dataset.item_domain[shared.numpy()] == domain).all()
            for user, owned in zip(
                fields["user_id"].tolist(), fields[f"{OWNED}_{domain}"], strict=True
            ):
                items = rows.items[slice(*rows.offsets[user : user + 2])]
                assert owned.tolist() == np.isin(shared.numpy(), items).tolist()


def test_nothing_to_train_on(write_dataset, load, tmp_path):
    rows = [("u", item, 0, at) for at, item in enumerate("abc")]
    items = [("a", "x"), ("b", "y"), ("c", "x")]
    dataset = load(write_dataset(tmp_path, rows=rows, items=items))
    with pytest.raises(ConfigError, match="no user has two training rows"):
        make_loaders(dataset.config, dataset)


def test_a_user_who_owns_a_whole_domain(write_dataset, load, tmp_path):
    rows = [("u", item, 0, at) for at, item in enumerate("abcde")]
    items = [("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"), ("e", "y")]
    dataset = load(write_dataset(tmp_path, rows=rows, items=items))
    with pytest.raises(DataError, match="no negative can be drawn"):
        make_loaders(dataset.config, dataset)


@settings(max_examples=20)
@given(**OPTIONS)
def test_inserted_items_are_marked(make_train, seed, length, batch, shuffle):
    train = make_train(seed, MAX_ITEM_LIST_LENGTH=length, train_batch_size=batch, shuffle=shuffle)
    rows, item_domain = train.dataset.train_sequences, train.dataset.item_domain
    assert rows.augmented.any()
    for fields in train:
        for at, user in enumerate(fields["user_id"].tolist()):
            if not fields["last"][at]:
                continue
            mine = slice(*rows.offsets[user : user + 2])
            items, flags = rows.items[mine], rows.augmented[mine]
            columns = [(fields[SEQUENCE][at], fields[AUGMENTED][at], np.ones(len(items), bool))]
            for domain in (0, 1):
                columns.append(
                    (
                        fields[domain_sequence_fields(domain)[0]][at],
                        fields[f"{AUGMENTED}_{domain}"][at],
                        item_domain[items] == domain,
                    )
                )
            for sequence, marked, kept in columns:
                n = int((sequence > 0).sum())
                expected = flags[kept][len(flags[kept]) - n :]
                assert marked.dtype == torch.bool
                assert marked.tolist() == expected.tolist() + [False] * (len(marked) - n)


# --- evaluation batches ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["LLMEDT", "SASRec"])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_evaluation_covers_every_target_once(write_dataset, load, tmp_path, model, batch):
    dataset = load(write_dataset(tmp_path), model, eval_batch_size=batch)
    for loader, phase, targets in zip(
        make_loaders(dataset.config, dataset)[1:],
        ("valid", "test"),
        (dataset.split.valid_rows, dataset.split.test_rows),
        strict=True,
    ):
        assert isinstance(loader, EvaluationLoader) and loader.phase == phase
        seen, lengths = [], []
        for interaction, rows in loader:
            assert interaction["user_id"].tolist() == dataset.split.users[rows].tolist()
            items = dataset.sequences.items[targets[rows]]
            assert interaction["item_id"].tolist() == items.tolist()
            seen += rows.tolist()
            lengths += interaction["item_length"].tolist()
        assert sorted(seen) == list(range(len(dataset.split.users)))
        assert lengths == sorted(lengths)


def test_inserted_items_of_the_histories_are_marked(
    make_shop, augmented_shop, write_dataset, load, tmp_path
):
    shop = augmented_shop(make_shop(3, n_users=30, lengths=(3, 14)), 3)
    folder = write_dataset(tmp_path, shop)
    dataset = load(folder, MAX_ITEM_LIST_LENGTH=6, augmented_histories=True)
    rows = dataset.sequences
    views = dataset.build()[1:]
    targets_of = (dataset.split.valid_rows, dataset.split.test_rows)
    n_marked = 0
    for view, targets in zip(views, targets_of, strict=True):
        for at, (user, target) in enumerate(zip(dataset.split.users, targets, strict=True)):
            history = slice(rows.offsets[user], target)
            items, flags = rows.items[history], rows.augmented[history]
            cuts = [("", "item_id_list", np.ones(len(items), bool))]
            for domain in (0, 1):
                kept = dataset.item_domain[items] == domain
                cuts.append((f"_{domain}", domain_fields(domain)[0], kept))
            for suffix, list_field, kept in cuts:
                filled = int((view.inter_feat[list_field][at] > 0).sum())
                marked = view.inter_feat[f"{AUGMENTED_LIST}{suffix}"][at].tolist()
                assert marked == flags[kept][-6:].tolist() + [False] * (6 - filled)
                n_marked += sum(marked)
    assert n_marked


# --- parts of a batch, for several processes ------------------------------------------------------


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_parts_of_a_batch_are_the_rows_of_the_whole(make_train, loss):
    train = make_train(5, MAX_ITEM_LIST_LENGTH=6, loss=loss, n_negatives=9)
    rows = torch.arange(11)
    whole = train.collate(rows, generator())
    for number in (0, 1):
        part = train.collate(rows, generator(), slice(number, None, 2))
        assert set(part.columns) == set(whole.columns)
        for name in whole.columns:
            mine = whole[name]
            if name not in (f"{NEGATIVES}_0", f"{NEGATIVES}_1"):  # those are shared by all
                mine = mine[number::2]
            if mine.dim() == 2 and part[name].shape != mine.shape:  # other padding
                beyond = mine[:, part[name].shape[1] :]
                assert not (beyond > 0).any()
                mine = mine[:, : part[name].shape[1]]
            assert torch.equal(part[name], mine), name


def test_a_process_without_a_row_gets_one_of_padding(make_train):
    train = make_train(5, n_negatives=9)
    rows = torch.arange(1)
    whole = train.collate(rows, generator())
    part = train.collate(rows, generator(), slice(1, None, 2))
    assert len(part[SEQUENCE]) == 1 and not part[SEQUENCE].any() and not part["last"].any()
    for domain in (0, 1):
        sequence, place = domain_sequence_fields(domain)
        assert not part[sequence].any() and (part[place] == -1).all()
        shared = f"{NEGATIVES}_{domain}"
        assert torch.equal(part[shared], whole[shared])
