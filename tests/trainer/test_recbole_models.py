"""RecBole's models: trained by its code on training rows alone, ranked like all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import TrainDataLoader, UserDataLoader
from recbole.trainer import S3RecTrainer
from recbole.utils import init_seed

from recbole_edt.config import EDTConfig
from recbole_edt.errors import ConfigError, DependencyError
from recbole_edt.quick_start import run_recbole_edt
from recbole_edt.recommend.recommender import Recommender
from recbole_edt.registry import find_model

COUNTED = ["Pop", "Random", "ItemKNN", "EASE"]
GENERAL = ["BPR", "LightGCN", "MultiVAE", "RecVAE", "NeuMF", "DMF"]
SEQUENTIAL = ["DIN", "DIEN", "SASRecF", "FDSA", "GRU4RecF", "SHAN", "FEARec", "CORE"]


@pytest.mark.parametrize("model", [*COUNTED, *GENERAL, *SEQUENTIAL])
def test_trains_by_recboles_code_and_ranks_every_target(model, small):
    results = run_recbole_edt(model, "tiny", None, small(model, epochs=2))
    assert results["test"]["overall"]["n"] == 20
    assert results["timing"]["epochs"] == (1 if model in COUNTED else 2)
    if model == "Random":  # every evaluation is another draw
        return
    # what is tested is the best epoch, with the caches and counts that belong to it
    best = {k: v for k, v in results["stages"]["1"]["valid"].items() if "/" not in k}
    assert results["valid"]["overall"].items() >= best.items()
    again = run_recbole_edt(model, "tiny", None, small(model, epochs=2, resume=True))
    assert again["test"] == results["test"]


@pytest.mark.parametrize("model", ["BPR", "NeuMF"])
def test_a_model_that_needs_negatives_says_so(model, small):
    with pytest.raises(ConfigError, match=f"{model} trains on negatives, and train_neg_sample_arg"):
        run_recbole_edt(model, "tiny", None, small(model, train_neg_sample_args=None))


def test_pop_counts_the_training_rows(run):
    made = run("Pop").fit()
    counts = np.bincount(made.data.train_sequences.items, minlength=made.data.item_num)
    assert made.trainer.model.item_cnt[:, 0].tolist() == counts.tolist()
    assert counts.max() > 2


def test_pop_is_validated_after_its_one_epoch(run):
    made = run("Pop", epochs=3, eval_step=2).fit()
    assert made.result()[0]["valid"] == made.trainer.best_valid_result


# --- what a general model sees --------------------------------------------------------------------


@pytest.fixture
def loaders(tmp_path_factory, make_shop, write_dataset, small):
    """Loaders of a shop in which no item is bought twice: a held-out item is in no training row."""
    shop = make_shop(seed=5, n_users=15, n_items=(60, 60), lengths=(4, 7), distinct=True)
    place = str(write_dataset(tmp_path_factory.mktemp("distinct"), shop))

    def make(model: str, **changes):
        config = EDTConfig(model, "tiny", None, small(model, data_path=place, **changes))
        init_seed(1, True)
        data = create_dataset(config)
        held_out = data.sequences.items[[data.split.valid_rows, data.split.test_rows]]
        return data_preparation(config, data), set(held_out.flatten().tolist())

    return make


def test_a_general_model_sees_no_held_out_pair(loaders):
    (train, *_), held_out = loaders("BPR")
    data = train._dataset
    rows = list(zip(*(data.inter_feat[f].tolist() for f in ("user_id", "item_id")), strict=True))
    assert len(rows) == len(data.train_sequences.items) == data.inter_num
    matrix = data.inter_matrix(form="coo")
    assert sorted(zip(matrix.row, matrix.col, strict=True)) == sorted(rows)
    history, _, lengths = data.history_item_matrix()
    assert {(u, i) for u in range(len(history)) for i in history[u, : lengths[u]].tolist()} == {
        *rows
    }
    seen = {
        *data.item_counter, *data.inter_feat["item_id"].tolist(), *data.sequences.items,
        *history.flatten().tolist(), *(i for used in train._sampler.used_ids for i in used),
        *np.flatnonzero(data.history_user_matrix()[2]).tolist(),
    }  # fmt: skip
    assert held_out
    assert not held_out & seen
    assert not hasattr(data, "split")


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_popular_negatives_are_popular_in_training_rows(model, loaders):
    sampling = {"distribution": "popularity", "sample_num": 1}
    loss = {"loss_type": "BPR"} if model == "SASRec" else {}
    (train, *_), held_out = loaders(model, train_neg_sample_args=sampling, **loss)
    drawn = {item for _ in range(30) for batch in train for item in batch["neg_item_id"].tolist()}
    assert drawn and not drawn & held_out


def test_negatives_of_a_general_model_are_items_that_the_user_has_not(loaders):
    (train, *_), held_out = loaders("BPR")
    assert type(train) is TrainDataLoader
    own = {u: set(train._sampler.used_ids[u]) for u in range(train._dataset.user_num)}
    batches = [batch for _ in range(30) for batch in train]
    pairs = {
        (u, n)
        for batch in batches
        for u, n in zip(batch["user_id"].tolist(), batch["neg_item_id"].tolist(), strict=True)
    }
    assert not [pair for pair in pairs if pair[1] in own[pair[0]]]
    assert held_out <= {item for _, item in pairs}  # who is held out is not told either
    with pytest.raises(ConfigError, match="repeatable must be False for BPR"):
        loaders("BPR", repeatable=True)


# --- ranking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["NeuMF", "DIN"])
def test_a_model_that_scores_pairs_alone_scores_the_candidates_and_no_more(model, run, monkeypatch):
    made = run(model, epochs=1)
    asked: list = []
    predict = type(made.trainer.model).predict

    def watched(self, interaction):
        asked.append(interaction)
        return predict(self, interaction)

    monkeypatch.setattr(type(made.trainer.model), "predict", watched)
    ranks = made.trainer.ranked(made.test)[:, 0]
    assert sum(len(pairs) for pairs in asked) == 20 * (1 + 5)
    full = made.trainer.ranked(made.test, "full")[:, 0]
    monkeypatch.undo()

    # one pair at a time, each with the features of its own item
    view, network = made.test._dataset, made.trainer.model.requires_grad_(False)
    features = view.get_item_feature()
    for at in range(20):
        target = int(view.inter_feat["item_id"][at])
        domain = view.item_domain[target]
        history = made.data.raw_history(view.split.users[[at]], view.split.test_rows[[at]])[1]
        pool = [i for i in made.data.candidate_pools()[domain] if i not in (target, *history)]
        scores = []
        for item in (target, *pool):
            pair = view[[at]]
            pair.update(features[[item]])
            scores.append(float(network.predict(pair)))
        assert full[at] == 1 + sum(score >= scores[0] for score in scores[1:])
    assert (ranks <= full).all()


# --- stages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "epochs"), [("S3Rec", [3, 2]), ("RaCT", [3, 3, 2])], ids=["S3Rec", "RaCT"]
)
def test_models_that_are_pretrained_go_through_all_stages(model, epochs, run, same_result, capsys):
    keys = {"epochs": 2, "pretrain_epochs": 3, "save_step": 1}
    keys |= {"metrics_k": 5} if model == "RaCT" else {}
    whole = run(model, **keys).fit()
    assert [part["epochs"] for part in whole.trainer.stages.values()] == epochs
    assert "Logging error" not in capsys.readouterr().err
    assert run(model, epochs=1).config["pretrain_epochs"] == 1

    half = run(model, checkpoint_dir="half", **keys)
    seen, train_epoch = [], half.trainer._train_epoch

    def killed(*arguments, **rest):
        if len(seen) == 4:  # in the second stage
            raise KeyboardInterrupt
        seen.append(half.trainer.stage)
        return train_epoch(*arguments, **rest)

    half.trainer._train_epoch = killed
    with pytest.raises(KeyboardInterrupt):
        half.fit()
    assert seen == [1, 1, 1, 2]
    resumed = run(model, checkpoint_dir="half", resume=True, **keys).fit()
    same_result(resumed.result(), whole.result())


def test_a_trainer_that_extends_recboles_for_stages_goes_through_them(small):
    mine = type("Mine", (find_model("S3Rec"),), {"trainer": type("Own", (S3RecTrainer,), {})})
    results = run_recbole_edt(mine, "tiny", None, small("S3Rec", epochs=1, pretrain_epochs=1))
    assert list(results["stages"]) == ["1", "2"]


@pytest.mark.parametrize(
    ("model", "first", "stage", "keys"),
    [("S3Rec", "S3Rec", {"train_stage": "finetune"}, {"pretrain_epochs": 1, "save_step": 1}),
     ("ConvNCF", "BPR", {"train_method": "after_pretrain"}, {})],
)  # fmt: skip
def test_a_stage_by_itself_needs_the_file_of_the_stage_before_to_be_trained_and_not_to_be_served(
    model, first, stage, keys, small, tmp_path
):
    with pytest.raises(ConfigError, match=r"pre_model_path '' is no file: name it \(--pre_model_"):
        run_recbole_edt(model, "tiny", None, small(model, **stage))
    keys = keys | ({"embedding_size": 64} if first == "BPR" else {})
    before = Path(run_recbole_edt(first, "tiny", None, small(first, **keys))["checkpoint"])
    before = before.rename(tmp_path / "before.pth")
    begun = small(model, pre_model_path=str(before), **stage, **keys)
    path = run_recbole_edt(model, "tiny", None, begun)["checkpoint"]
    there = Recommender.load(path, use_gpu=False).recommend("u1")
    before.unlink()
    assert Recommender.load(path, use_gpu=False).recommend("u1").equals(there)


# --- features, loaders, refusals ------------------------------------------------------------------


def test_models_of_features_read_a_column_of_the_data(
    tmp_path, write_dataset, small_shop, config_for
):
    place = write_dataset(tmp_path, small_shop)
    assert config_for(place, "SASRecF")["selected_features"] == ["domain"]
    assert config_for(place, "FDSA", selected_features="domain")["selected_features"] == ["domain"]
    path = tmp_path / "tiny" / "tiny.item"
    header, *lines = path.read_text().splitlines()
    lines = [f"{line}\tkind {number % 3}" for number, line in enumerate(lines)]
    path.write_text("\n".join([f"{header}\tcategories:token_seq", *lines]) + "\n")
    config = config_for(place, "S3Rec")
    assert config["item_attribute"] == "categories"
    data = create_dataset(config)
    data_preparation(config, data)
    assert data.get_item_feature()["categories"].shape == (data.item_num, 2)
    config = config_for(place, "FDSA", selected_features=["domain"])
    assert config["load_col"]["item"] == ["item_id", "domain", "generated"]
    with pytest.raises(ConfigError, match="has no column 'category', did you mean 'categories'"):
        config_for(place, "FDSA", selected_features=["category"])
    path.write_text(path.read_text().replace("categories:token_seq", "price:float"))
    with pytest.raises(ConfigError, match=r"is a column of numbers: --numerical_features=.*price"):
        config_for(place, "GRU4RecF", selected_features=["price"])


def test_a_subclass_has_the_keys_trainer_and_loader_of_the_model_that_it_extends(
    data_path, config_for
):
    from recbole_edt.trainer import trainer_class

    mine = type("Mine", (find_model("RecVAE"),), {})
    config = config_for(data_path, mine)
    assert (config["model"], config["hidden_dimension"]) == ("Mine", 600)
    train = data_preparation(config, create_dataset(config))[0]
    assert type(train) is UserDataLoader
    assert issubclass(trainer_class(mine), trainer_class(find_model("RecVAE")).__mro__[2])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("DeepFM", "predicts the label of a row"),
        ("LightGBM", "predicts the label of a row"),
        ("KGAT", r"files such as <dataset>\.kg"),
        ("KSR", r"files such as <dataset>\.kg"),
        ("LightGCM", "unknown model 'LightGCM', did you mean 'LightGCN'"),
        ("llmedt", "unknown model 'llmedt', did you mean 'LLMEDT'"),
        ("mine.BPR", "unknown model 'mine.BPR': a class of your own is --model="),
        ("xyzzy", "unknown model 'xyzzy': a class of your own is --model=package.module:Class"),
    ],
)
def test_a_model_that_is_not_served_says_why(model, reason):
    with pytest.raises(ConfigError, match=reason):
        find_model(model)


def test_a_package_that_a_model_needs_is_named(monkeypatch):
    monkeypatch.setattr("recbole_edt.registry.find_spec", lambda name: None)
    find_model("BPR")
    with pytest.raises(DependencyError, match="NCL needs the package faiss"):
        find_model("NCL")
