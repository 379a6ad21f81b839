"""Loaders: whole windows for training, targets with their numbers for evaluation."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import FullSortEvalDataLoader, data_preparation

from recbole_edt.data.dataloader import (
    AUGMENTED,
    NEGATIVES,
    SEEN,
    SEQUENCE,
    TARGET_WEIGHTS,
    TARGETS,
    EvaluationLoader,
    SequenceLoader,
    domain_sequence_fields,
)
from recbole_edt.data.recency import recency_weights
from recbole_edt.errors import DataError
from recbole_edt.model.losses import softmax_loss


@pytest.fixture(scope="module")
def make_train(make_shop, augmented_shop, write_embedded, load):
    """Make a training loader over a random shop with inserted rows."""

    def make(seed=0, shop=None, **overrides) -> SequenceLoader:
        shop = shop or augmented_shop(make_shop(seed, n_users=25, lengths=(1, 14)), seed)
        with tempfile.TemporaryDirectory() as folder:
            dataset = load(write_embedded(Path(folder), shop), **overrides)
            train = data_preparation(dataset.config, dataset)[0]
            assert isinstance(train, SequenceLoader)
            assert len(train.similar) == dataset.item_num  # before the folder is gone
        return train

    return make


def dump(loader, epoch: int) -> list[dict[str, list]]:
    loader.set_epoch(epoch)
    return [{name: field.tolist() for name, field in batch.interaction.items()} for batch in loader]


OPTIONS = st.fixed_dictionaries({
    "seed": st.integers(0, 30),
    "MAX_ITEM_LIST_LENGTH": st.integers(1, 12),
    "train_batch_size": st.integers(1, 40),
    "shuffle": st.booleans(),
})  # fmt: skip


def rows_of(train, user: int) -> slice:
    return slice(*train.dataset.train_sequences.offsets[user : user + 2])


@settings(max_examples=20)
@given(OPTIONS)
def test_an_epoch_covers_every_window_once_in_trimmed_batches(make_train, options):
    train = make_train(**options)
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


@settings(max_examples=20)
@given(OPTIONS)
def test_each_target_has_the_weight_of_its_own_time(make_train, options):
    train = make_train(**options, recency_half_life=400)
    rows = train.dataset.train_sequences
    weights = torch.from_numpy(recency_weights(rows, train.dataset.item_domain, 400.0)[0])
    assert len(weights.unique()) > 10
    for fields in train:
        for at in torch.nonzero(fields["last"]).flatten().tolist():
            n = int((fields[SEQUENCE][at, 1:] > 0).sum())
            of_user = weights[rows_of(train, int(fields["user_id"][at]))]
            assert torch.equal(fields[TARGET_WEIGHTS][at, :n], of_user[-n:])
            assert not fields[TARGET_WEIGHTS][at, n:].any()
    assert TARGET_WEIGHTS not in next(iter(make_train(**options, recency_half_life=0)))


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_label_smoothing_replaces_a_share_of_the_targets_by_similar_items(make_train, share):
    train, plain = (make_train(3, label_smoothing=x) for x in (share, 0.0))
    replaced, n = 0, 0
    for _ in range(20):
        for fields, expected in zip(train, plain, strict=True):
            targets, labels = fields[SEQUENCE][:, 1:], fields[TARGETS]
            assert torch.equal(fields[SEQUENCE], expected[SEQUENCE])
            other = labels != targets
            assert (train.similar[targets[other]] == labels[other][:, None]).any(1).all()
            assert torch.equal(labels > 0, targets > 0)
            replaced, n = replaced + int(other.sum()), n + int((targets > 0).sum())
    assert TARGETS not in expected.columns
    assert replaced / n == pytest.approx(share, abs=0.02)


@settings(max_examples=20)
@given(OPTIONS)
def test_a_target_stands_at_its_place_in_its_domain_and_inserted_items_are_marked(
    make_train, options
):
    train = make_train(**options)
    item_domain, width = train.item_domain, train.dataset.max_item_list_len + 1
    for fields in train:
        targets = fields[SEQUENCE][:, 1:]
        ends = [
            (at, rows_of(train, int(fields["user_id"][at])))
            for at in torch.nonzero(fields["last"]).flatten().tolist()
        ]
        for at, rows in ends:
            n, marked = int((fields[SEQUENCE][at] > 0).sum()), fields[AUGMENTED][at]
            assert torch.equal(marked[:n], train.augmented[rows][-n:]) and not marked[n:].any()
        for domain in (0, 1):
            name, place_name = domain_sequence_fields(domain)
            sub_sequence, place = fields[name], fields[place_name]
            mine = (targets > 0) & (item_domain[targets] == domain)
            assert torch.equal(place >= 0, mine)
            row, column = torch.nonzero(mine, as_tuple=True)
            assert (sub_sequence[row, place[row, column]] == targets[row, column]).all()
            # the user's own items of the domain, as far as the width and the last target reach
            for at, rows in ends:
                items, flags = train.items[rows], train.augmented[rows]
                own = item_domain[items] == domain
                for found, all_of_user in (
                    (sub_sequence[at], items), (fields[f"{AUGMENTED}_{domain}"][at], flags)
                ):  # fmt: skip
                    expected = all_of_user[own][-width:]
                    assert torch.equal(found[: len(expected)], expected)
                    assert not found[len(expected) :].any()


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
    assert dump(other, 7) == first
    assert dump(other, other.epoch) == dump(one, 8)  # a loop of one's own goes on with the next


@pytest.mark.parametrize("seed", range(5))
def test_one_negative_per_target(make_train, seed):
    train = make_train(seed, model="C2DSR", loss="bpr")
    for fields in train:
        targets, negatives = fields[SEQUENCE][:, 1:], fields[NEGATIVES]
        assert torch.equal(negatives > 0, targets > 0)
        assert torch.equal(train.item_domain[negatives], train.item_domain[targets])
        for user, drawn in zip(fields["user_id"].tolist(), negatives.tolist(), strict=True):
            assert not set(drawn) & set(train.items[rows_of(train, user)].tolist())


@pytest.mark.parametrize("model", ["LLMEDT", "SASRec", "GRU4Rec"])
def test_data_without_two_training_rows_of_a_user(write_dataset, load, tmp_path, model):
    rows = [("u", item, 0, at) for at, item in enumerate("abc")]
    dataset = load(
        write_dataset(tmp_path, rows=rows, items=[*zip("abc", "xyx", strict=True)]), model
    )
    with pytest.raises(DataError, match="no user has two training rows"):
        data_preparation(dataset.config, dataset)


@pytest.mark.parametrize(
    ("model", "loss"), [("LLMEDT", "bpr"), ("C2DSR", "bpr"), ("LLMEDT", "softmax")]
)
def test_a_user_who_has_all_of_a_domain(write_dataset, load, tmp_path, model, loss):
    rows = [("guest", item, 0, at) for at, item in enumerate("abcde")]
    items = [*zip("abcde", "xyxyy", strict=True)]
    dataset = load(write_dataset(tmp_path, rows=rows, items=items), model, loss=loss)
    if loss == "bpr":
        with pytest.raises(DataError, match=r"user 'guest' has all items of x in .*--loss=softmax"):
            data_preparation(dataset.config, dataset)
        return
    (batch,) = data_preparation(dataset.config, dataset)[0]
    mask = batch[f"{SEEN}_0"]
    assert mask.all()
    states, positives, negatives = (torch.randn(n, 4, requires_grad=True) for n in (2, 2, 2))
    value = softmax_loss(states, positives, negatives, mask, torch.zeros(2, dtype=torch.int64))
    value.backward()
    assert value == 0  # nothing to rank the positive against
    assert not any(part.grad.any() for part in (states, positives, negatives))


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
        assert EvaluationLoader(dataset.config, loader.dataset).phase == phase
        seen, lengths = [], []
        for interaction, rows in loader.batches():
            assert interaction["user_id"].tolist() == dataset.split.users[rows].tolist()
            items = dataset.sequences.items[targets[rows]]
            assert interaction["item_id"].tolist() == items.tolist()
            seen += rows.tolist()
            lengths += interaction["item_length"].tolist()
        assert sorted(seen) == list(range(len(dataset.split.users)))
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("model", ["LLMEDT", "SASRec", "BPR"])
@pytest.mark.parametrize("mode", ["full", "uni2"])
def test_loops_over_evaluation_loaders_get_what_recboles_give(
    write_dataset, load, tmp_path, model, mode, caplog
):
    dataset = load(write_dataset(tmp_path), model, **{"eval_args.mode": mode})
    test = data_preparation(dataset.config, dataset)[2]
    assert isinstance(test, FullSortEvalDataLoader)  # what copies of RecBole's `evaluate` ask
    with caplog.at_level("WARNING"):
        ((interaction, history, places, targets),) = test
    assert places.tolist() == list(range(len(interaction)))
    assert targets.tolist() == interaction["item_id"].tolist()
    assert (history is None) == (model != "BPR")
    for place, user in enumerate(interaction["user_id"].tolist() if history else []):
        last = dataset.split.test_rows[dataset.split.users == user][0]
        seen = dataset.sequences.items[dataset.sequences.offsets[user] : last]
        assert history[1][history[0] == place].tolist() == seen.tolist()
    assert ("no candidates of eval_args.mode uni2" in caplog.text) == (mode == "uni2")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.mark.parametrize(
    ("model", "loss"), [("LLMEDT", "softmax"), ("LLMEDT", "bpr"), ("C2DSR", "bpr")]
)
def test_parts_of_a_batch_are_the_rows_of_the_whole(make_train, model, loss):
    smoothing = {"label_smoothing": 0.5} if model == "LLMEDT" else {}
    keys = {"model": model, "loss": loss, "n_negatives": 9, **smoothing}
    train = make_train(5, MAX_ITEM_LIST_LENGTH=6, **keys)
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
