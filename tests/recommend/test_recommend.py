"""Recommendations agree with the evaluation, name what carried them, and can be exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_edt
from recbole_edt.errors import CheckpointError, ConfigError, DataError
from recbole_edt.recommend.command import recommend
from recbole_edt.recommend.recommender import Recommender

SMALL = {
    "epochs": 2,
    "hidden_size": 16,
    "eval_args.mode": "full",
    "topk": [3],
    "valid_metric": "NDCG@3",
    "use_gpu": False,
    "state": "ERROR",
    "show_progress": False,
}
MODELS = {
    "LLMEDT": {"finetune_epochs": 2, "n_negatives": 8},
    "LLMEDTPretrain": {"augmented_histories": True, "n_negatives": 8},
    "SASRec": {"inner_size": 16, "train_neg_sample_args": None},
}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, make_shop, augmented_shop, write_dataset) -> Path:
    shop = augmented_shop(make_shop(seed=5, n_users=40, n_items=(20, 24), lengths=(1, 9)), 5)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(shop.items), 6)).astype(np.float32)
    return write_dataset(tmp_path_factory.mktemp("data"), shop, item_emb=vectors)


@pytest.fixture(scope="module", params=MODELS)
def trained(request, tmp_path_factory, data_path):
    """Model, checkpoint, results and ranks of a run."""
    folder = tmp_path_factory.mktemp("run")
    settings = {
        **SMALL, **MODELS[request.param], "data_path": str(data_path),
        "checkpoint_dir": str(folder), "ranks_file": str(folder / "ranks.npz"),
    }  # fmt: skip
    results = recbole_edt.run_recbole_edt(request.param, "tiny", None, settings)
    parts = (".last", ".stage1")
    (path,) = (p for p in folder.glob("*.pth") if not p.stem.endswith(parts))
    return request.param, path, results, dict(np.load(folder / "ranks.npz"))


def load(trained, data_path, history="test", **changes) -> Recommender:
    changes = {"use_gpu": False, **changes}
    return Recommender.from_checkpoint(trained[1], "tiny", data_path, history, changes)


def command(trained, data_path, **keys) -> None:
    given = {"dataset": "tiny", "checkpoint": trained[1], "data_path": data_path,
             "use_gpu": False, **keys}  # fmt: skip
    recommend([f"--{key}={value}" for key, value in given.items() if value is not None])


@pytest.mark.parametrize("phase", ["test", "valid"])
def test_ranking_the_users_reproduces_the_evaluation_exactly(trained, data_path, phase) -> None:
    _, _, _, ranks = trained
    recommender = load(trained, data_path, phase, eval_batch_size=7)
    data = recommender.data
    targets = data.split.test_rows if phase == "test" else data.split.valid_rows
    items = data.sequences.items[targets]
    compared = []
    for places in recommender.batches():
        scores = recommender.scores(places).numpy()
        for place, of_user in zip(places, scores, strict=True):
            target, pool = items[place], recommender.pools[data.item_domain[items[place]]]
            if np.isneginf(of_user[target]):  # in the history, too: evaluated, never recommended
                continue
            compared.append(place)
            assert (of_user[pool] >= of_user[target]).sum() == ranks[f"{phase}_full"][place]
            assert (ranks[f"{phase}_full"][place] <= 3) == (
                target in recommender.top(np.array([place]), data.item_domain[target], 3)[0]
            )
    assert len(compared) > 0.7 * len(items)


def test_what_a_user_has_and_what_was_generated_is_never_recommended(trained, data_path) -> None:
    recommender = load(trained, data_path, "all")
    data = recommender.data
    generated = set(np.flatnonzero(data.item_generated))
    places = np.arange(len(recommender.users))
    for domain in (0, 1):
        items, scores = recommender.top(places, domain, 99)
        assert items.shape[1] == len(recommender.pools[domain])
        for user, row, of_row in zip(recommender.users, items, scores, strict=True):
            mine = slice(*data.sequences.offsets[user : user + 2])
            raw = data.sequences.items[mine][~data.sequences.augmented[mine]]
            shown = row[~np.isneginf(of_row)]
            assert not set(shown) & (set(raw) | generated)
            assert (data.item_domain[shown] == domain).all()
            assert (np.diff(of_row[: len(shown)]) <= 0).all()


def test_rows_carry_by_what_the_score_loses_without_them(trained, data_path) -> None:
    recommender = load(trained, data_path, "test")
    lengths = [len(recommender.history(p)[0]) for p in range(len(recommender.users))]
    place = int(np.argmax(lengths))
    assert lengths[place] > 3
    (first, *_) = recommender.recommend(place, 0, 3)
    # leave the row out by hand: a data set whose user lacks it
    rows, stop = recommender.rows, recommender.stops[place]
    for number, fall in first.carried_by:
        mask = np.ones(len(rows.items), bool)
        mask[stop - lengths[place] + number] = False
        fields = recommender.data.history_fields(
            rows.keep(mask), recommender.users[[place]], np.array([stop - 1])
        )
        without = recommender._score(fields)[0, first.item].item()
        assert first.score - without == pytest.approx(fall, abs=1e-4)
    falls = [fall for _, fall in first.carried_by]
    assert falls == sorted(falls, reverse=True)
    assert all(fall > 0 for fall in falls)


def test_inserted_rows_are_shown_where_the_model_sees_them(trained, data_path) -> None:
    recommender = load(trained, data_path, "all")
    inserted = [recommender.history(place)[1] for place in range(len(recommender.users))]
    assert np.concatenate(inserted).any() == (trained[0] == "LLMEDTPretrain")


def test_all_users_in_bounded_memory_get_the_same(trained, data_path) -> None:
    frames = []
    for size in (1024, 5):
        command(trained, data_path, user="all", topk=4, domain="bike", output="out.tsv",
                eval_batch_size=size)  # fmt: skip
        frames.append(pd.read_csv("out.tsv", sep="\t", dtype={"user_id": str}))
    one, two = frames
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-4)
    recommender = load(trained, data_path, "all")
    assert len(one) == 4 * len(recommender.users)
    place = recommender.place(one["user_id"][0])
    items, _ = recommender.top(np.array([place]), 1, 4)
    assert one["item_id"][:4].tolist() == recommender.data.id2token("item_id", items[0]).tolist()


def test_exported_vectors_give_the_scores(trained, data_path) -> None:
    if trained[0] == "SASRec":
        with pytest.raises(ConfigError, match="SASRec has no vectors"):
            command(trained, data_path, export="vectors")
        return
    command(trained, data_path, export="vectors")
    folder = Path("vectors")
    items = np.load(folder / "items.npy")
    names, domains = np.loadtxt(folder / "items.txt", dtype=str, delimiter="\t", unpack=True)
    users = (folder / "users.txt").read_text().split()
    recommender = load(trained, data_path, "all")
    ids = recommender.data.token2id("item_id", names)
    for name in recommender.data.domains:
        mine = domains == name
        scores = np.load(folder / f"users_{name}.npy") @ items[mine].T
        expected = torch.cat([recommender.scores(p) for p in recommender.batches()])[:, ids[mine]]
        shown = ~torch.isneginf(expected).numpy()
        assert shown.any(axis=1).all()
        assert np.allclose(scores[shown], expected.numpy()[shown], atol=1e-4), name
    assert len(users) == len(recommender.users)


def test_one_user_on_the_screen(trained, data_path, capsys) -> None:
    command(trained, data_path, user="u3", topk=2)
    out = capsys.readouterr().out
    assert out.startswith("user u3: the last ")
    assert "recommended from art" in out and "recommended from bike" in out
    assert out.count("<-") == 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"user": "nobody"}, DataError, "there is no user 'nobody'"),
        ({"domain": "food"}, ConfigError, "unknown domain 'food' .there are: art, bike"),
        ({"topk": 0}, ConfigError, "topk must be"),
        ({"history": "never"}, ConfigError, "history must be one of all, test, valid"),
        ({"user": "all"}, ConfigError, "needs --output"),
        ({"user": None}, ConfigError, "say --user"),
        ({"user": "all", "output": "."}, ConfigError, "output . is a folder"),
        ({"checkpoint": "missing.pth"}, CheckpointError, "there is no checkpoint"),
        ({"topkk": 3}, ConfigError, "unknown key 'topkk', did you mean 'topk'"),
        ({"dataset": None}, ConfigError, "--dataset is missing"),
    ],
)
def test_bad_arguments(trained, data_path, change, error, message) -> None:
    with pytest.raises(error, match=message):
        command(trained, data_path, **{"user": "u3", **change})


def test_a_checkpoint_of_other_data_is_refused(trained, tmp_path, make_shop, write_dataset) -> None:
    shop = make_shop(seed=6, n_users=40, n_items=(20, 24))
    rng = np.random.default_rng(0)
    other = write_dataset(tmp_path, shop, item_emb=rng.normal(size=(44, 6)).astype(np.float32))
    with pytest.raises(CheckpointError, match="belongs to another dataset"):
        Recommender.from_checkpoint(trained[1], "tiny", other, "all", {"use_gpu": False})
