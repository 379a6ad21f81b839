"""RecBole's own look-ups find the plugin; stock models stay what they were."""

from __future__ import annotations

import sys
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
from running import small

import recbole_edt
from recbole_edt import registry
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.errors import ConfigError
from recbole_edt.model.llmedt import LLMEDT
from recbole_edt.registry import known_models, plugin_models, properties_of, register_model
from recbole_edt.settings import nest
from recbole_edt.trainer import CrossDomainMixin

ROOT = Path(__file__).resolve().parents[1]
STOCK = {"SASRec", "GRU4Rec", "BERT4Rec", "Pop"}
FILES = {f.stem for f in (ROOT / "properties" / "model").glob("*.yaml") if "-" not in f.stem}
OWN = FILES - STOCK | {"LLMEDTPretrain", "LLMEDTFinetune"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["test"])  # RecBole's own Config reads them
    monkeypatch.setattr(registry, "_registered", {})


def stock_config(model, data_path, **changes) -> Config:
    keys = nest(small(model, data_path=data_path)) | changes
    return Config(model, "tiny", config_dict=keys)


def test_known_models_are_the_plugins_and_the_sequential_and_general_ones_of_recbole():
    assert set(plugin_models()) == OWN
    known = known_models()
    assert {*OWN, *STOCK, "S3Rec", "BPR", "LightGCN", "AsymKNN"} <= {*known}
    assert len(known) == len(OWN) + 31 - 2 + 33  # two sequential ones read a knowledge graph
    assert not {"DeepFM", "KGAT", "KSR", "SequentialRecommender", "CrossDomainModel"} & {*known}
    assert known == sorted(known)
    assert not torch.is_anomaly_enabled()  # an import of RecBole would turn it on


def test_a_name_can_be_registered_again_as_a_notebook_does_but_not_taken():
    for mine in (type("Mine", (LLMEDT,), {}), type("Mine", (LLMEDT,), {})):
        assert register_model(mine) is mine is get_model("Mine")
    assert "Mine" in known_models() and properties_of(mine) == ("LLMEDT", LLMEDT)
    with pytest.raises(ConfigError, match="Linear is no model"):
        register_model(torch.nn.Linear)
    with pytest.raises(ConfigError, match="SASRec is taken"):
        register_model(type("SASRec", (LLMEDT,), {}))


@pytest.mark.parametrize("model", sorted(OWN))
def test_recbole_finds_model_trainer_dataset_and_property_files(model, data_path):
    assert get_model(model) is plugin_models()[model]
    config = stock_config(model, data_path)
    assert issubclass(get_trainer(config["MODEL_TYPE"], model), CrossDomainMixin)
    assert type(create_dataset(config)) is CrossDomainDataset
    assert (config["candidate_seed"], config["n_layers"]) == (42, 2)
    assert config["hidden_size"] == 16


def test_recboles_config_checks_the_settings_of_a_model(data_path):
    with pytest.raises(ConfigError, match="item_embedding must be one of text, id, both"):
        stock_config("LLMEDT", data_path, item_embedding="nonsense")


def test_recboles_config_takes_values_as_python_has_them(data_path):
    given = {"train_batch_size": np.int64(8), "topk": (3, 5), "device": torch.device("cpu")}
    columns = {"load_col": {"inter": ("user_id", "item_id", "timestamp")}}
    config = stock_config("LLMEDT", Path(data_path), **given, **columns)
    assert create_dataset(config).user_num > 1
    assert (config["train_batch_size"], config["topk"]) == (8, [3, 5])


def test_a_dataset_of_another_kind_is_refused(data_path):
    config = stock_config("LLMEDT", data_path)
    with pytest.raises(ConfigError, match="not read a SequentialDataset: make the dataset with"):
        data_preparation(config, SequentialDataset(config))


def test_what_recboles_config_takes_and_nothing_uses_is_named(data_path, caplog):
    caplog.set_level("WARNING")  # whatever an earlier run set
    create_dataset(stock_config("LLMEDT", data_path, drop_out=0.1, **{"eval_args.mode": "full"}))
    assert caplog.messages == [
        "only code of your own can use the key 'drop_out', did you mean 'dropout'?",
        "only code of your own can use the key 'eval_args.mode', did you mean 'eval_args'?",
    ]


@pytest.mark.parametrize("model", ["LLMEDT", "SASRec"])
def test_recboles_way_says_that_data_are_simulated(model, data_path, caplog):
    caplog.set_level("WARNING")  # whatever an earlier run set
    note = Path(data_path, "tiny", "SIMULATED")
    note.write_text("These data are simulated.\n")
    create_dataset(stock_config(model, data_path))
    note.unlink()
    assert caplog.messages[0] == "These data are simulated."


def test_recboles_config_takes_the_device_that_is_asked_for(data_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # RecBole sets it
    for is_there, given, device in (
        (True, {"use_gpu": True}, "cuda"),
        (True, {"use_gpu": True, "device": "cpu"}, "cpu"),
        (True, {"use_gpu": False}, "cpu"),
        (False, {"use_gpu": True}, "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_there=is_there: is_there)
        assert stock_config("LLMEDT", data_path, **given)["device"].type == device
    with pytest.raises(ConfigError, match="a GPU is asked for, but there is none"):
        stock_config("LLMEDT", data_path, use_gpu=True, device="cuda")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LLMEDTT", ", did you mean 'LLMEDT'"),
        ("sasrec", ", did you mean 'SASRec'"),
        ("mine:LLMEDT", ": RecBole's functions take the class itself"),
    ],
)
def test_a_model_that_recbole_does_not_find_is_named_with_a_way_out(name, meant):
    with pytest.raises(ConfigError, match=f"unknown model '{name}'{meant}"):
        get_model(name)


@pytest.mark.parametrize("saved", [True, False])
def test_run_recbole_gives_what_the_plugins_own_run_gives(data_path, saved):
    from recbole.quick_start import run_recbole

    settings = nest(small("LLMEDT", data_path=data_path))
    theirs = run_recbole(model="LLMEDT", dataset="tiny", config_dict=dict(settings), saved=saved)
    names = ("hit@3", "ndcg@3", "mrr")
    assert theirs["test_result"].keys() == {f"{p}{n}" for p in ("", "art/", "bike/") for n in names}
    assert theirs["best_valid_score"] == theirs["best_valid_result"]["ndcg@3"]
    ours = recbole_edt.run_recbole_edt("LLMEDT", "tiny", None, settings, saved)
    for name in names:
        assert theirs["test_result"][name] == ours["test"]["overall"][name]


@pytest.mark.parametrize("first", ["recbole_edt", "recbole.trainer"])
def test_order_of_imports_does_not_matter(python, first, data_path):
    settings = nest(small("LLMEDT", data_path=data_path))
    code = f"""if True:
        import {first}
        import recbole_edt, sys
        print([name for name in ("ray", "recbole_edt.model") if name in sys.modules])
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer
        print("sklearn" in sys.modules)  # which some of RecBole's figures alone need
        config = Config("LLMEDT", "tiny", config_dict={settings!r})
        loaders = data_preparation(config, create_dataset(config))
        trainer = get_trainer(config["MODEL_TYPE"], "LLMEDT")
        print(get_model("LLMEDT").__name__, type(loaders[0]).__name__, trainer.__name__)
    """
    done = python("-c", code)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["[]", str(first == "recbole.trainer")], done.stderr
    assert lines[-1:] == ["LLMEDT SequenceLoader TwoStageTrainer"], done.stderr


def test_stock_model_through_stock_recbole_is_untouched(data_path):
    evaluation = {"mode": "full", "split": {"LS": "valid_and_test"}, "order": "TO"}
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    config = stock_config("SASRec", data_path, eval_args=evaluation, load_col=columns,
                          train_neg_sample_args=None)  # fmt: skip
    assert config["candidate_seed"] is None
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
