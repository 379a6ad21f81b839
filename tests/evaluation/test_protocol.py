"""The protocol as a whole: nothing of the held-out rows reaches training, for any model.

In most of these shops every row has an item of its own, so that an item names its row.
"""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from recbole.data import data_preparation
from recbole.data.interaction import Interaction

PLUGIN, BUILT_IN = ("LLMEDT", "LLMEDTPretrain"), ("SASRec", "GRU4Rec", "BERT4Rec")


def held_out(shop) -> dict[str, tuple[str, str]]:
    """Validation and test item of every user who has them."""
    sequences = shop.raw_sequences()
    return {user: (items[-2], items[-1]) for user, items in sequences.items() if len(items) >= 3}


def positional_fields(batch: Interaction) -> dict[str, torch.Tensor]:
    """What a batch says of its users: all fields but drawn negatives and times."""
    drawn = ("negatives", "seen", "Neg_items", "neg_")
    return {
        name: field
        for name, field in batch.interaction.items()
        if not name.startswith(drawn) and "timestamp" not in name
    }


def items_in(batch: Interaction) -> set[int]:
    """Item ids anywhere in the fields that hold items of users."""
    names = ("sequence", "item_id", "Mask_item_id_list", "Pos_items")
    found: set[int] = set()
    for name, field in positional_fields(batch).items():
        if name.startswith(names):
            found.update(field.flatten().tolist())
    return found - {0}


@pytest.fixture(scope="module", params=[1, 2, 3])
def shop(request, make_shop):
    return make_shop(request.param, n_users=30, n_items=(160, 160), lengths=(1, 10), distinct=True)


@pytest.fixture(scope="module")
def augmented(shop, augmented_shop, write_dataset, tmp_path_factory):
    """The shop with rows inserted, of generated items only: raw items still name their row."""
    more = augmented_shop(shop)
    generated = {item for item, _, flag in more.items if flag == "1"}
    rows = [row for row in more.rows if row[4] == "0" or row[1] in generated]
    rows += [(user, "aart0", 0, -1, "1") for user in shop.raw_sequences()]
    return write_dataset(tmp_path_factory.mktemp("shop"), replace(more, rows=rows))


@pytest.mark.parametrize("model", [*PLUGIN, *BUILT_IN])
@pytest.mark.parametrize("augmentation", [False, True])
@pytest.mark.parametrize("width", [5, 50])  # RecBole's BERT4Rec needs five to mask one
def test_no_held_out_row_is_ever_in_a_training_batch(
    shop, augmented, load, model, augmentation, width
):
    dataset = load(
        augmented,
        model,
        augmentation=augmentation,
        MAX_ITEM_LIST_LENGTH=width,
        train_batch_size=16,
    )
    train = data_preparation(dataset.config, dataset)[0]
    seen: set[int] = set()
    for batch in train:
        seen |= items_in(batch)
    tokens = {str(dataset.id2token("item_id", item)) for item in seen if item < dataset.item_num}
    hidden = {item for pair in held_out(shop).values() for item in pair}
    assert hidden and not tokens & hidden
    # and everything else is there, so that the check above looks at the right fields
    sequences = shop.raw_sequences()
    for user, items in sequences.items():
        mine = items[:-2] if user in held_out(shop) else items
        if len(mine) > 1 or (augmentation and mine):
            assert set(mine) <= tokens


@pytest.mark.parametrize("model", ["LLMEDT", *BUILT_IN])
def test_inputs_of_a_target_end_right_before_it(shop, augmented, load, model):
    dataset = load(augmented, model, augmentation=True, eval_batch_size=7)
    for place, loader in zip((-2, -1), data_preparation(dataset.config, dataset)[1:], strict=True):
        for interaction, rows in loader.batches():
            users = dataset.id2token("user_id", dataset.split.users[rows])
            for at, user in enumerate(users):
                raw = shop.raw_sequences()[user]
                assert dataset.id2token("item_id", int(interaction["item_id"][at])) == raw[place]
                lists = [f for name, f in interaction.interaction.items() if "item_id_list" in name]
                assert len(lists) == (3 if model == "LLMEDT" else 1)  # mixed, and of both domains
                for field in lists:
                    seen = set(dataset.id2token("item_id", field[at].numpy()))
                    assert not seen & set(raw[place:])
                mixed = set(dataset.id2token("item_id", interaction["item_id_list"][at].numpy()))
                assert set(raw[:place]) <= mixed


def exchanged(shop, seed: int):
    """Exchange the items and times of the held-out rows for others, whatever they are."""
    rng = random.Random(seed)
    hidden = {
        (user, len(items) - back)
        for user, items in shop.raw_sequences().items()
        if len(items) >= 3
        for back in (1, 2)
    }
    names = [item for item, _ in shop.items]
    rows = [
        (row[0], rng.choice(names), rng.randint(0, 2 * 10**9), *row[3:])
        if (row[0], row[3]) in hidden
        else row
        for row in shop.rows
    ]
    return replace(shop, rows=rows), hidden


@pytest.mark.parametrize(
    ("model", "loss"), [("LLMEDT", "softmax"), ("LLMEDT", "bpr"), *((m, None) for m in BUILT_IN)]
)
def test_other_held_out_items_leave_every_training_batch_as_it_is(
    make_shop, write_dataset, load, tmp_path, model, loss
):
    """To the byte, negatives included: training knows which items there are, no more.

    RecBole numbers items as they appear, so training rows come first in the file.
    """
    shop = make_shop(4, n_users=40, n_items=(9, 9), lengths=(1, 9))
    hidden = exchanged(shop, 0)[1]
    shop = replace(shop, rows=sorted(shop.rows, key=lambda row: (row[0], row[3]) in hidden))
    assert len({row[1] for row in shop.rows if (row[0], row[3]) not in hidden}) == 18
    options = {"loss": loss, "n_negatives": 8} if loss else {}
    batches = []
    for seed in (None, 1, 2):
        other = shop if seed is None else exchanged(shop, seed)[0]
        dataset = load(write_dataset(tmp_path / str(seed), other), model, **options)
        train = data_preparation(dataset.config, dataset)[0]
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        if hasattr(train, "set_epoch"):
            train.set_epoch(3)
        else:
            train.generator.manual_seed(3)
        batches.append(
            [
                {name: field.numpy().tobytes() for name, field in batch.interaction.items()}
                for batch in train
            ]
        )
    assert len(batches[0]) > 0
    assert batches[0] == batches[1] == batches[2]


def test_the_real_data_keep_the_protocol(real_data, load):
    """No held-out row is among the rows that any training input or target spans."""
    dataset = load(real_data, dataset="cloth_sport")
    rows, split, windows = dataset.sequences, dataset.split, dataset.windows()
    training = dataset.train_sequences
    kept = np.ones(len(rows.items), dtype=bool)
    kept[np.concatenate([split.valid_rows, split.test_rows])] = False
    assert (training.items == rows.items[kept]).all()  # the training rows, and all of them
    assert (training.users == rows.users[kept]).all()
    assert (windows.stops < training.offsets[windows.users + 1]).all()
    assert (windows.starts >= training.offsets[windows.users]).all()
    assert (windows.stops - windows.starts).sum() == (np.diff(training.offsets) - 1).clip(0).sum()
