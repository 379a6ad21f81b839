"""RecBole's filters and columns: raw rows are dropped before the split, and no key does nothing."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_edt.errors import ConfigError, DataError

INTER = """\
user_id:token item_id:token timestamp:float position:float rating:float augmented:token
anna a1 1 1 5 0
anna b1 2 2 4 0
anna a2 3 3 2 0
anna b2 4 4 5 0
anna a1 5 5 3 0
anna b3 0 3.5 0 1
bill a1 1 1 5 0
bill b1 2 2 5 0
bill b2 3 3 1 0
bill a2 4 4 5 0
bill new 0 1.5 0 1
bill a2 0 1.7 0 1
cleo b1 1 1 2 0
cleo a1 2 2 5 0
cleo b2 3 3 5 0
dora a3 1 1 5 0
dora b1 2 2 1 0
"""
ITEM = """\
item_id:token domain:token price:float colour:token tags:token_seq sizes:float_seq generated:token
new books  red  1.5 1
b3 books 9 blue x,y 1.5,2 0
b2 books 5 red y 3 0
b1 books 4 red x,z,y 1 0
a3 toys 7 blue x 2,2 0
a2 toys 8 red y 0 0
a1 toys 2 blue z 4 0
"""
USER = """\
user_id:token age:float
cleo 20
anna 30
bill 40
"""
SEQUENCES = {
    "anna": "a1 b1 a2 b2 a1",
    "bill": "a1 b1 b2 a2",
    "cleo": "b1 a1 b2",
    "dora": "a3 b1",
}


@pytest.fixture
def shop(tmp_path):
    """Folder of a shop of four users, whose embeddings count the lines of its files from 1."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for suffix, text in (("inter", INTER), ("item", ITEM), ("user", USER)):
        lines = text.replace(" ", "\t").replace(",", " ")
        (folder / f"shop.{suffix}").write_text(lines)
    for what, n in (("item", 7), ("user", 3)):
        np.save(folder / f"shop.{what}_emb.npy", np.arange(1.0, n + 1)[:, None])
    return tmp_path


@pytest.fixture
def read(shop, load):
    def make(model="SASRec", **keys):
        return load(shop, model, dataset="shop", **keys)

    return make


def rows_of(data, augmented=False) -> dict[str, str]:
    """Items of every user who has rows, raw or inserted, in the order of position."""
    rows = data.sequences.keep(data.sequences.augmented == augmented)
    items = data.id2token("item_id", rows.items)
    parts = {
        str(data.id2token("user_id", user)): " ".join(items[slice(*rows.offsets[user : user + 2])])
        for user in range(1, data.user_num)
    }
    return {user: part for user, part in parts.items() if part}


FILTERS = [
    ({"user_inter_num_interval": "[3,inf)"}, SEQUENCES | {"dora": ""}),
    ({"user_inter_num_interval": [4, 4]}, {"bill": SEQUENCES["bill"]}),
    ({"user_inter_num_interval": (3, 5)}, {"bill": SEQUENCES["bill"]}),  # open
    ({"item_inter_num_interval": "[3,inf)"}, {
        "anna": "a1 b1 b2 a1", "bill": "a1 b1 b2", "cleo": "b1 a1 b2", "dora": "b1"}),
    ({"item_inter_num_interval": "[3,inf)", "user_inter_num_interval": "[4,inf)"}, None),
    ({"val_interval": {"rating": "[2,inf)"}}, {
        **SEQUENCES, "bill": "a1 b1 a2", "dora": "a3"}),
    ({"val_interval": {"rating": [2, 4]}}, {"anna": "b1 a2 a1", "cleo": "b1"}),
    ({"val_interval": {"price": "(2,8]"}}, {
        "anna": "b1 a2 b2", "bill": "b1 b2 a2", "cleo": "b1 b2", "dora": "a3 b1"}),
    ({"val_interval": {"colour": ["red"], "rating": "[1,4];[5,5]"}}, {
        "anna": "b1 a2 b2", "bill": "b1 b2 a2", "cleo": "b1 b2", "dora": "b1"}),
    ({"val_interval": {"age": "[30,inf)"}}, {
        "anna": SEQUENCES["anna"], "bill": SEQUENCES["bill"], "dora": SEQUENCES["dora"]}),
    ({"val_interval": {"age": "[30,inf)"}, "filter_inter_by_user_or_item": False}, SEQUENCES),
    ({"filter_inter_by_user_or_item": True}, SEQUENCES | {"dora": ""}),
    ({"rm_dup_inter": "first"}, SEQUENCES | {"anna": "a1 b1 a2 b2"}),
    ({"rm_dup_inter": "last"}, SEQUENCES | {"anna": "b1 a2 b2 a1"}),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "expected"), FILTERS, ids=lambda value: str(value)[:60])
def test_raw_rows_are_filtered_before_the_split(read, keys, expected):
    if expected is None:
        with pytest.raises(DataError, match=r"^user_.* and item_.*: no row is left$"):
            read(**keys)
        return
    data = read(**keys)
    expected = {user: items for user, items in expected.items() if items}
    assert rows_of(data) == expected
    evaluated = {str(user) for user in data.id2token("user_id", data.split.users)}
    assert evaluated == {user for user, items in expected.items() if len(items.split()) >= 3}


def test_inserted_rows_go_with_their_user_and_their_item(read):
    inserted = {"anna": "b3", "bill": "new a2"}
    assert rows_of(read(augmentation=True), augmented=True) == inserted
    # bill has rows enough, and so has his generated item, which has no raw row at all
    data = read(augmentation=True, user_inter_num_interval="[4,4]")
    assert rows_of(data, augmented=True) == {"bill": inserted["bill"]}
    data = read(augmentation=True, val_interval={"price": "[0,8]"})  # b3 has another
    assert rows_of(data, augmented=True) == {"bill": inserted["bill"]}
    generated = data.id2token("item_id", np.flatnonzero(data.item_generated))
    assert generated.tolist() == ["new"]


def test_embeddings_stay_with_their_lines(read):
    data = read(augmentation=True, val_interval={"colour": ["red"]})
    lines = {line.split()[0]: n for n, line in enumerate(ITEM.splitlines())}
    vectors = data.item_table().whole()[:, 0]
    tokens = data.id2token("item_id", range(data.item_num))
    assert set(tokens) == {"[PAD]", "b1", "b2", "a2", "new"}
    assert vectors.tolist() == [lines.get(token, 0) for token in tokens]


def test_what_augment_has_seen_of_rows_held_out_now_is_left_out(read):
    """Without their last row, bill's third is held out: his items and profile come from it."""
    keys = {"augmentation": True, "val_interval": {"rating": "[2,inf)"}}
    data = read(**keys, item_inter_num_interval="[2,inf)")
    assert rows_of(data)["bill"] == "a1 b1 a2" and rows_of(data)["anna"] == SEQUENCES["anna"]
    # bill's b1 was a training row; cleo's and anna's split is the same
    assert rows_of(data, augmented=True) == {}  # b3 has no raw row, either
    assert rows_of(read(**keys), augmented=True) == {"anna": "b3"}
    profiles = dict(zip(data.id2token("user_id", range(data.user_num)),
                        data.user_table().whole()[:, 0], strict=True))  # fmt: skip
    assert profiles == {"[PAD]": 0, "cleo": 1, "anna": 2, "bill": 0}
    assert "of 1 users" in data.notes[-1]


def test_a_column_that_filters_is_read_by_itself_and_no_feature(read):
    data = read(val_interval={"price": "[0,8]", "colour": ["red", "blue"]})
    assert not {"price", "colour"} & {*data.item_feat, *data.field2type}
    kept = ["item_id", "domain", "price"]
    data = read(val_interval={"price": "[0,8]"}, load_col={"item": kept})
    assert "price" in data.item_feat


@pytest.mark.parametrize(
    "columns",
    [
        {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "price"]},
        {"inter": [], "user": ["age"]},
    ],
)
def test_columns_of_the_contract_are_read_whatever_load_col_names(read, columns):
    plain, other = read(augmentation=True), read(augmentation=True, load_col=columns)
    for augmented in (True, False):
        assert rows_of(other, augmented) == rows_of(plain, augmented)
    assert other.domains == plain.domains


def test_columns_that_are_left_out(read):
    assert {*read(unload_col={"item": ["price"]}).item_feat} == {
        "item_id", "domain", "colour", "tags", "sizes",
    }  # fmt: skip
    data = read(unused_col={"item": ["colour"]}, load_col={"item": ["colour", "price"]})
    train, *_ = data.build()
    assert {"price", "colour"} & {*train[np.arange(2)].columns} == {"price"}


@pytest.mark.parametrize("keys", [{"normalize_all": True}, {"normalize_field": ["timestamp"]}])
@pytest.mark.parametrize(("model", "most"), [("LLMEDT", None), ("SASRec", 1)])
def test_times_that_weigh_targets_are_not_normalized(read, keys, model, most):
    plain, data = read(model=model).sequences, read(model=model, **keys)
    assert (data.sequences.items == plain.items).all()
    assert data.sequences.timestamps.max() == (most or plain.timestamps.max())
    assert any("timestamp is not normalized" in note for note in data.notes) == (most is None)


def test_sequences_in_a_column(read):
    data = read(load_col={"item": ["tags", "sizes"]}, seq_len={"tags": 2})
    tags = dict(zip(data.item_feat["item_id"], data.item_feat["tags"], strict=True))
    found = data.id2token("tags", tags[data.token2id("item_id", "b1")])
    assert found.tolist() == ["x", "z"]
    sizes = data.item_feat["sizes"][data.token2id("item_id", "b3")]
    assert sizes.tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"val_interval": {"stars": "[3,5]"}}, DataError, "val_interval names 'stars', which is"),
        ({"val_interval": {"rating": "3"}}, ConfigError, "'rating' takes an interval"),
        ({"val_interval": {"colour": "red"}}, ConfigError, "'colour' takes a list of names"),
        ({"val_interval": {"tags": ["x"]}}, ConfigError, "'tags' holds sequences"),
        ({"val_interval": {"rating": "[9,10]"}}, DataError, "val_interval: no row is left"),
        ({"val_interval": {"colour": ["green"]}}, DataError, "no row is left"),
        ({"val_interval": {"price": "[3,5]"}}, DataError, "no item of toys is left"),
        ({"user_inter_num_interval": "[3,"}, ConfigError, "must be an interval such as"),
        ({"user_inter_num_interval": "[3,2]"}, ConfigError, "must be an interval such as"),
        ({"item_inter_num_interval": 5}, ConfigError, "must be an interval such as"),
        ({"rm_dup_inter": "both"}, ConfigError, "must be one of first, last"),
        ({"load_col": {"inter": ["stars"]}}, DataError, "no column 'stars', which load_col"),
        ({"load_col": {"inter": "rating"}}, ConfigError, "load_col must be a mapping of"),
        ({"unload_col": {"inter": ["position"]}}, DataError, "'position' is needed"),
        ({"unload_col": {"item": ["stars"]}}, DataError, "no column 'stars'"),
        ({"normalize_field": ["price"]}, DataError, "normalize_field names 'price'.*load_col"),
        ({"numerical_features": ["price"]}, DataError, "numerical_features names 'price'"),
        ({"numerical_features": ["timestamp"]}, DataError, "'timestamp', which orders the rows"),
        ({"discretization": {"position": {"method": "ED", "bucket": 2}}, "numerical_features": []},
         DataError, "discretization names 'position', which orders the rows"),
        ({"preload_weight": {"item_id": "sizes"}}, DataError, "preload_weight names 'sizes'"),
        ({"alias_of_item_id": ["alike"]}, DataError, "alias_of_item_id names 'alike'"),
    ],
)  # fmt: skip
def test_filters_and_columns_that_cannot_be(read, keys, error, words):
    with pytest.raises(error, match=words) as caught:
        read(**keys)
    assert "\n" not in str(caught.value)
