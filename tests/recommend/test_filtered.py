"""What the filters of a training mean for what is served later."""

from __future__ import annotations

import pytest

from recbole_edt.errors import CheckpointError, DataError
from recbole_edt.recommend.recommender import Recommender


def add_ratings(folder):
    """Give the rows of a data set ratings: every fourth is bad."""
    path = folder / "tiny/tiny.inter"
    head, *lines = path.read_text().splitlines()
    rated = [f"{line}\t{1 if place % 4 == 0 else 5}" for place, line in enumerate(lines)]
    path.write_text("\n".join([f"{head}\trating:float", *rated]) + "\n")
    return folder


@pytest.mark.parametrize("model", ["LLMEDT", "BPR"])
def test_what_a_filter_dropped_is_not_recommended(growing, train, tmp_path, model) -> None:
    data = add_ratings(growing.write(tmp_path / "data", growing.shop.rows, growing.shop.items))
    path = train(model, tmp_path / "run", data, val_interval={"rating": "[3,inf)"})
    ours, of_test = (Recommender.load(path, until=end, use_gpu=False) for end in ("all", "test"))
    n_dropped = 0
    for user, items in growing.shop.raw_sequences().items():
        if user not in ours.data.field2token_id["user_id"]:
            continue
        found = ours.recommend(user, k=99)["item_id"]
        assert not {*items} & {*found}
        assert len({*items}) + len(found) == len(growing.shop.items)
        assert {*items} <= {*ours.recommend(user, k=99, repeat=True)["item_id"]}
        n_dropped += len(dropped := {*items} - {*ours.history(user)})
        if len(ours.history(user)) > 2:  # those are candidates of the evaluation
            assert dropped <= {*of_test.recommend(user, k=99)["item_id"]}
    assert n_dropped > 9


def test_items_of_the_training_stay_whatever_their_number_of_rows_is_later(
    growing, train, tmp_path
) -> None:
    path = train("LLMEDT", tmp_path / "run", growing.early, item_inter_num_interval="[3,inf)")
    known = {*Recommender.load(path, use_gpu=False).recommend(k=99)["item_id"]}
    assert known < {item for item, *_ in growing.shop.items}
    recent = [row for row in growing.shop.rows if row[3] >= 3]
    later = growing.write(tmp_path / "later", recent, growing.shop.items)
    assert known <= {
        *Recommender.load(path, data_path=later, use_gpu=False).recommend(k=99)["item_id"]
    }


def test_an_item_that_a_filter_drops_is_told_by_the_filter(growing, train, tmp_path) -> None:
    keys = {"val_interval": {"price": "[0,5]"}, "load_col": {"item": ["price"]}}

    def write(name, price_of_art1):
        folder = growing.write(tmp_path / name, growing.shop.rows, growing.shop.items)
        path = folder / "tiny/tiny.item"
        head, *lines = path.read_text().splitlines()
        priced = [
            f"{line}\t{price_of_art1 if line.startswith('art1' + chr(9)) else 1}" for line in lines
        ]
        path.write_text("\n".join([f"{head}\tprice:float", *priced]) + "\n")
        return folder

    path = train("SASRec", tmp_path / "run", write("cheap", 1), **keys)
    with pytest.raises(
        CheckpointError,
        match="44 items, of which 1 are dropped from tiny by val_interval, such as 'art1'",
    ):
        Recommender.load(path, data_path=write("dear", 9), use_gpu=False)


@pytest.mark.parametrize("model", ["LLMEDT", "BPR"])
def test_users_are_served_whatever_their_number_of_rows_is(growing, train, tmp_path, model) -> None:
    path = train(model, tmp_path / "run", growing.early, user_inter_num_interval="[6,inf)")
    lengths = {user: len(items) for user, items in growing.shop.raw_sequences().items()}
    few = {user for user, n in lengths.items() if n < 6}
    ours = Recommender.load(path, data_path=growing.grown, use_gpu=False)
    found = {*ours.recommend(k=1)["user_id"]}
    if model == "BPR":  # it has vectors of the users of its training
        assert found == {*lengths} - few
        with pytest.raises(DataError, match="user 'v1' is new, and BPR knows the users of its tr"):
            ours.recommend("v1")
        return
    assert found == {*lengths, *growing.new_users} and few
    assert len(ours.history("v1")) == 2


def test_a_user_of_whom_a_filter_keeps_nothing_is_told_by_the_filter(
    growing, train, tmp_path
) -> None:
    data = add_ratings(growing.write(tmp_path / "data", growing.shop.rows, growing.shop.items))
    path = train("SASRec", tmp_path / "run", data, val_interval={"rating": "[3,inf)"})
    with (data / "tiny/tiny.inter").open("a") as file:
        file.write("critic\tart1\t1\t1\t1\n")
    ours = Recommender.load(path, use_gpu=False)
    with pytest.raises(DataError, match="val_interval: no row of user 'critic' is left"):
        ours.recommend("critic")


@pytest.mark.parametrize("model", ["LLMEDT", "SASRec"])
def test_data_in_which_nobody_can_be_evaluated_are_served(growing, train, tmp_path, model) -> None:
    path = train(model, tmp_path / "run", growing.early)
    rows = [("n1", "art1", 1, 1), ("n1", "bike2", 2, 2), ("n2", "art1", 1, 1)]
    for place, some in enumerate((rows, rows[2:])):  # with a row to train on, and without
        later = growing.write(tmp_path / f"later{place}", some, growing.shop.items)
        ours = Recommender.load(path, data_path=later, use_gpu=False)
        user, history = ("n1", ["art1", "bike2"]) if not place else ("n2", ["art1"])
        whole, of_user = ours.recommend(history=history, k=3), ours.recommend(user, k=3)
        assert whole["item_id"].tolist() == of_user["item_id"].tolist()
    ended = Recommender.load(path, data_path=later, use_gpu=False, until="test")
    assert ended.recommend().empty
    with pytest.raises(DataError, match="user 'n2' has no history that ends there"):
        ended.recommend("n2")
