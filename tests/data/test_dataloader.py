"""Loaders: whole windows for training, targets with their numbers for evaluation."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import data_preparation

from recbole_edt.data.dataloader import (
    AUGMENTED,
    NEGATIVES,
    SEEN,
    SEQUENCE,
    EvaluationLoader,
    SequenceLoader,
    domain_sequence_fields,
)
from recbole_edt.data.dataset import AUGMENTED_LIST, domain_fields
from recbole_edt.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def make_train(make_shop, augmented_shop, write_dataset, load):
    """Make a training loader over a random shop with inserted rows."""

    def make(seed=0, shop=None, **overrides) -> SequenceLoader:
        shop = shop or augmented_shop(make_shop(seed, n_users=25, lengths=(1, 14)), seed)
        with tempfile.TemporaryDirectory() as folder:
            dataset = load(write_dataset(Path(folder), shop), **overrides)
        train = data_preparation(dataset.config, dataset)[0]
        assert isinstance(train, SequenceLoader)
        return train

    return make


def dump(loader, epoch: int) -> list[dict[str, list]]:
    loader.set_epoch(epoch)
    return [{name: field.tolist() for name, field in batch.interaction.items()} for batch in loader]


@pytest.fixture(scope="module")
def many(make_train):
    """Run a check on the training loaders of random shops, lengths and batch sizes."""

    def run(check, examples: int = 20) -> None:
        @settings(max_examples=examples)
        @given(
            seed=st.integers(0, 30),
            MAX_ITEM_LIST_LENGTH=st.integers(1, 12),
            train_batch_size=st.integers(1, 40),
            shuffle=st.booleans(),
        )
        def over(**options):
            check(make_train(**options))

        over()

    return run


def rows_of(train, user: int) -> slice:
    return slice(*train.dataset.train_sequences.offsets[user : user + 2])


def test_an_epoch_covers_every_window_once_in_trimmed_batches(many):
    def check(train):
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
            assert any(items[-1] for items in fields[SEQUENCE])
            for domain in (0, 1):
                own = fields[domain_sequence_fields(domain)[0]]
                assert len(own[0]) == 1 or any(items[-1] for items in own)
        assert sorted(found) == expected
        assert len(batches) == len(train)

    many(check)


def test_fields_of_a_domain_are_made_on_first_use(make_train, monkeypatch):
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
    assert len(next(iter(train))[:2]["augmented_0"]) == 2


def test_a_target_stands_at_its_place_in_its_domain(many):
    def check(train):
        item_domain = torch.from_numpy(train.dataset.item_domain)
        width = train.dataset.max_item_list_len + 1
        for fields in train:
            targets = fields[SEQUENCE][:, 1:]
            for domain in (0, 1):
                name, place_name = domain_sequence_fields(domain)
                sub_sequence, place = fields[name], fields[place_name]
                mine = (targets > 0) & (item_domain[targets] == domain)
                assert torch.equal(place >= 0, mine)
                row, column = torch.nonzero(mine, as_tuple=True)
                assert (sub_sequence[row, place[row, column]] == targets[row, column]).all()
                # the user's own items of the domain, as far as the width and the last target reach
                for at in torch.nonzero(fields["last"]).flatten().tolist():
                    items = train.items[rows_of(train, int(fields["user_id"][at]))]
                    expected = items[item_domain[items] == domain][-width:]
                    found = sub_sequence[at]
                    assert torch.equal(found[found > 0], expected)

    many(check)


def test_inserted_items_are_marked(many):
    def check(train):
        item_domain = train.item_domain
        for fields in train:
            for at in torch.nonzero(fields["last"]).flatten().tolist():
                mine = rows_of(train, int(fields["user_id"][at]))
                items, flags = train.items[mine], train.augmented[mine]
                cuts = [(SEQUENCE, AUGMENTED, torch.ones_like(flags))]
                for domain in (0, 1):
                    name = domain_sequence_fields(domain)[0]
                    cuts.append((name, f"{AUGMENTED}_{domain}", item_domain[items] == domain))
                for name, marked, kept in cuts:
                    n = int((fields[name][at] > 0).sum())
                    assert fields[marked].dtype == torch.bool
                    assert torch.equal(fields[marked][at, :n], flags[kept][len(flags[kept]) - n :])
                    assert not fields[marked][at, n:].any()

    many(check)


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


@pytest.mark.parametrize("seed", range(5))
def test_one_negative_per_target(make_train, seed):
    train = make_train(seed, model="C2DSR", loss="bpr")
    for fields in train:
        targets, negatives = fields[SEQUENCE][:, 1:], fields[NEGATIVES]
        assert torch.equal(negatives > 0, targets > 0)
        assert torch.equal(train.item_domain[negatives], train.item_domain[targets])
        for user, drawn in zip(fields["user_id"].tolist(), negatives.tolist(), strict=True):
            assert not set(drawn) & set(train.items[rows_of(train, user)].tolist())


def test_shared_negatives_per_domain(make_train):
    train = make_train(seed=6, loss="softmax", n_negatives=7)
    for fields in train:
        for domain in (0, 1):
            shared = fields[f"{NEGATIVES}_{domain}"]
            assert len(set(shared.tolist())) == 7
            assert (train.dataset.item_domain[shared.numpy()] == domain).all()
            for user, seen in zip(
                fields["user_id"].tolist(), fields[f"{SEEN}_{domain}"], strict=True
            ):
                assert torch.equal(seen, torch.isin(shared, train.items[rows_of(train, user)]))


@pytest.mark.parametrize(
    ("items", "domains", "error", "message"),
    [
        ("abc", "xyx", ConfigError, "no user has two training rows"),
        ("abcde", "xyxyy", DataError, "no negative can be drawn"),  # a user owns all of x
    ],
)
def test_data_that_cannot_be_trained_on(
    write_dataset, load, tmp_path, items, domains, error, message
):
    rows = [("u", item, 0, at) for at, item in enumerate(items)]
    dataset = load(write_dataset(tmp_path, rows=rows, items=list(zip(items, domains, strict=True))))
    with pytest.raises(error, match=message):
        data_preparation(dataset.config, dataset)


@pytest.mark.parametrize("model", ["LLMEDT", "SASRec"])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_evaluation_covers_every_target_once(write_dataset, load, tmp_path, model, batch):
    dataset = load(write_dataset(tmp_path), model, eval_batch_size=batch)
    for loader, phase, targets in zip(
        data_preparation(dataset.config, dataset)[1:],
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


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize(
    ("model", "loss"), [("LLMEDT", "softmax"), ("LLMEDT", "bpr"), ("C2DSR", "bpr")]
)
def test_parts_of_a_batch_are_the_rows_of_the_whole(make_train, model, loss):
    train = make_train(5, model=model, MAX_ITEM_LIST_LENGTH=6, loss=loss, n_negatives=9)
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
