"""RecBole's own look-ups find the plugin; stock models stay what they were."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader
from recbole.data.dataset import SequentialDataset
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer

import recbole_edt
from recbole_edt.data.dataloader import EvaluationLoader, SequenceLoader
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.registry import PLUGIN_MODELS, known_models, register
from recbole_edt.trainer import CrossDomainMixin

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "epochs": 1,
    "hidden_size": 16,
    "eval_args": {"mode": "uni5"},
    "topk": [3],
    "valid_metric": "NDCG@3",
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, make_shop, write_dataset) -> str:
    shop = make_shop(seed=3, n_users=20, n_items=(12, 14), lengths=(4, 8))
    vectors = np.random.default_rng(0).normal(size=(26, 6))
    return str(write_dataset(tmp_path_factory.mktemp("data"), shop, item_emb=vectors))


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["test"])  # RecBole's own Config reads them


def stock_config(model, data_path, **changes) -> Config:
    return Config(model, "tiny", config_dict={**SMALL, "data_path": data_path, **changes})


# --- the plugin's models through RecBole's doors --------------------------------------------------


@pytest.mark.parametrize("model", PLUGIN_MODELS)
def test_get_model_and_get_trainer_find_the_plugin(model, data_path):
    assert get_model(model) is getattr(import_module(PLUGIN_MODELS[model]), model)
    config = stock_config(model, data_path)
    assert issubclass(get_trainer(config["MODEL_TYPE"], model), CrossDomainMixin)


@pytest.mark.parametrize("model", PLUGIN_MODELS)
def test_config_finds_the_property_files(model, data_path):
    config = stock_config(model, data_path)
    assert config["cross_domain"] is True
    assert config["n_negatives"] == 2048
    assert config["hidden_size"] == 16
    assert config["candidate_seed"] == 42


def test_config_finds_presets_and_where_the_data_are(data_path):
    config = Config("LLMEDT", "cloth_sport", config_dict={"preset": "paper"})
    assert (config["item_embedding"], config["loss"]) == ("text", "bpr")
    assert config["data_path"] == str(ROOT / "dataset_atomic" / "cloth_sport")


def test_create_dataset_and_data_preparation_give_the_plugins_classes(data_path):
    config = stock_config("LLMEDT", data_path)
    dataset = create_dataset(config)
    assert type(dataset) is CrossDomainDataset
    loaders = data_preparation(config, dataset)
    assert [type(loader) for loader in loaders] == [
        SequenceLoader, EvaluationLoader, EvaluationLoader,
    ]  # fmt: skip
    assert [loader.phase for loader in loaders[1:]] == ["valid", "test"]


@pytest.mark.parametrize("saved", [True, False])
def test_run_recbole_trains_and_tests_a_plugin_model(data_path, saved):
    from recbole.quick_start import run_recbole

    settings = {**SMALL, "data_path": data_path, "inner_size": 16, "finetune_epochs": 1}
    result = run_recbole(model="LLMEDT", dataset="tiny", config_dict=settings, saved=saved)
    assert result["test_result"].keys() == {
        f"{part}{name}" for part in ("", "art/", "bike/") for name in ("hit@3", "ndcg@3", "mrr")
    }
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@3"]


def test_run_recbole_gives_what_the_plugins_own_run_gives(data_path):
    from recbole.quick_start import run_recbole

    settings = {**SMALL, "data_path": data_path, "inner_size": 16, "finetune_epochs": 1}
    theirs = run_recbole(model="LLMEDT", dataset="tiny", config_dict=dict(settings))
    ours = recbole_edt.run_recbole_edt("LLMEDT", "tiny", None, settings)
    for name in ("hit@3", "ndcg@3", "mrr"):
        assert theirs["test_result"][name] == ours["test"]["overall"][name]


def test_registering_again_changes_nothing(data_path):
    before = Config._load_internal_config_dict, recbole_edt.registry
    import recbole.data.utils

    loaders = recbole.data.utils.get_dataloader
    register()
    assert (Config._load_internal_config_dict, recbole_edt.registry) == before
    assert recbole.data.utils.get_dataloader is loaders is recbole.data.get_dataloader


# --- stock models through stock RecBole -----------------------------------------------------------


def test_stock_model_through_stock_recbole_is_untouched(data_path):
    config = stock_config(
        "SASRec",
        data_path,
        eval_args={"mode": "full", "split": {"LS": "valid_and_test"}, "order": "TO"},
        train_neg_sample_args=None,
        load_col={"inter": ["user_id", "item_id", "timestamp"]},
    )
    assert config["cross_domain"] is None
    assert config["adapter_size"] is None
    assert config["learning_rate"] == 0.001
    assert get_trainer(config["MODEL_TYPE"], "SASRec") is Trainer
    dataset = create_dataset(config)
    assert type(dataset) is SequentialDataset
    loaders = data_preparation(config, dataset)
    assert [type(loader) for loader in loaders] == [
        TrainDataLoader, FullSortEvalDataLoader, FullSortEvalDataLoader,
    ]  # fmt: skip
    model = get_model("SASRec")(config, loaders[0].dataset)
    trainer = Trainer(config, model)
    trainer.fit(*loaders[:2], saved=False, verbose=False)
    result = trainer.evaluate(loaders[2], load_best_model=False)
    assert set(result) == {f"{name}@3" for name in ("recall", "mrr", "ndcg", "hit", "precision")}


def test_known_models_are_the_plugins_and_the_sequential_ones_of_recbole():
    known = known_models()
    assert {"LLMEDT", "LLMEDTPretrain", "LLMEDTFinetune", "SASRec", "GRU4Rec", "BERT4Rec"} <= {
        *known
    }
    assert not {"BPR", "LightGCN", "SequentialRecommender"} & {*known}
    assert known == sorted(known)


def test_anomaly_detection_that_an_import_of_recbole_turns_on_is_off():
    known_models()
    assert not torch.is_anomaly_enabled()


def test_import_brings_neither_ray_nor_recboles_quick_start():
    code = """if True:
        import recbole_edt, sys
        print([name for name in ("ray", "recbole.quick_start") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not list(Path().iterdir())
