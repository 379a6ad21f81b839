"""What the filters of a training mean for what is served later."""

from __future__ import annotations

import pytest

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
