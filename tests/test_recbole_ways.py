"""RecBole's own ways: saved runs, data and loaders, its case study and its scripts."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from textwrap import dedent
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import running
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation, load_split_dataloaders
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.trainer import Trainer
from recbole.utils import (
    WandbLogger,
    calculate_valid_score,
    get_model,
    init_logger,
    init_seed,
)
from recbole.utils.case_study import full_sort_scores, full_sort_topk

import recbole_edt
from recbole_edt.config import EDTConfig
from recbole_edt.data import saved as saved_data
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.errors import CheckpointError, ConfigError, DataError, DependencyError
from recbole_edt.evaluation.history import HistoryTerm
from recbole_edt.log import close_log, open_log
from recbole_edt.settings import nest
from recbole_edt.trainer import trainer_class

MODELS = ("LLMEDT", "TriCDR", "SASRec", "LightGCN")


@pytest.fixture(scope="module")
def shop(make_shop, augmented_shop):
    return augmented_shop(make_shop(seed=5, n_users=40, n_items=(20, 24), lengths=(1, 9)), 5)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory, shop, write_embedded) -> Path:
    return write_embedded(tmp_path_factory.mktemp("data"), shop)


def settings(model, data_path, **changes) -> dict:
    own = {"history_weight": 4.0} if model == "LLMEDT" else {}
    keys = {"data_path": str(data_path), "eval_args.mode": "full", **own, **changes}
    return running.small(model, **keys)


def test_handlers_of_an_earlier_run_of_recbole_rest_while_a_run_logs(
    data_path, config_for, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    root, config = logging.getLogger(), config_for(data_path, "SASRec")
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    init_logger(config)
    recboles, mine = list(root.handlers), logging.NullHandler()
    root.addHandler(mine)
    open_log(config)
    assert len(root.handlers) == 3 and mine in root.handlers and recboles[0] not in root.handlers
    close_log()
    assert sorted(root.handlers, key=id) == sorted([*recboles, mine], key=id)
    for handler in recboles:
        handler.close()


# --- a checkpoint as RecBole loads it -------------------------------------------------------------


@pytest.fixture(scope="module", params=MODELS)
def loaded(request, tmp_path_factory, data_path):
    """Results of a run, and what RecBole loads from its checkpoint."""
    folder = str(tmp_path_factory.mktemp("saved"))
    changes = settings(request.param, data_path, augmentation=True, checkpoint_dir=folder)
    results = recbole_edt.run_recbole_edt(request.param, "tiny", None, changes)
    return results, load_data_and_model(results["checkpoint"])


def test_loaded_model_gives_the_results_of_its_run(loaded):
    results, (config, model, data, train, valid, test) = loaded
    assert type(model).__name__ == config["model"] == results["model"]
    assert isinstance(config, Config) and isinstance(data, CrossDomainDataset)
    assert config["data_path"] == data.dataset_path and config["augmentation"] is True
    trainer = trainer_class(type(model))(config, model)
    for phase, loader in (("valid", valid), ("test", test)):
        trainer.evaluate(loader, load_best_model=False)
        assert trainer.reports[phase] == results[phase]
    trainer.fit(train, valid, verbose=False, saved=False)  # the loader of its own kind trains on


def test_weights_that_are_loaded_by_hand_score_as_their_run_did(loaded):
    results, (config, _, _, train, _, test) = loaded
    content = torch.load(results["checkpoint"])
    model = get_model(config["model"])(config, train.dataset)
    model.load_state_dict(content["state_dict"])
    model.load_other_parameter(content.get("other_parameter"))
    trainer = trainer_class(type(model))(config, model)
    trainer.evaluate(test, load_best_model=False)
    assert trainer.reports["test"] == results["test"]


@pytest.mark.parametrize("name", ["LLMEDT", "LLM4CDSR", "C2DSR"])
def test_a_history_by_itself_scores_as_the_one_of_a_dataset(name, data_path):
    config = Config(name, "tiny", config_dict=nest(settings(name, data_path)))
    data = create_dataset(config)
    _, _, test = data_preparation(config, data)
    model = get_model(name)(config, data).eval()
    model.begin_finetuning()
    (batch, *_), *_ = test
    with torch.no_grad():
        whole = model.full_sort_predict(batch)
        alone = {key: batch[key] for key in (model.ITEM_SEQ, model.ITEM_SEQ_LEN)}
        assert torch.allclose(model.full_sort_predict(Interaction(alone)), whole, atol=1e-5)


def test_case_study_ranks_what_a_shop_has_for_users_by_their_tokens(loaded, shop):
    _, (config, model, data, _, _, test) = loaded
    users = [user for user, items in shop.raw_sequences().items() if len(items) >= 3][:5][::-1]
    ids = data.token2id(data.uid_field, users)
    scores, items = full_sort_topk(ids, model, test, k=7, device=config["device"])
    every = full_sort_scores(ids, model, test, device=config["device"])
    generated = {item for item, _, *is_generated in shop.items if is_generated == ["1"]}
    masks_history = not test.is_sequential  # as RecBole does
    for user, row, of_user, best in zip(users, every, scores, items, strict=True):
        rows = data.inter_feat[data.uid_field] == data.token2id(data.uid_field, user)
        alone = data[rows.nonzero()[-1]]  # the row of the test target
        with torch.no_grad():
            expected = model.full_sort_predict(alone).flatten()
        if term := HistoryTerm.of(model, data):
            expected += term.among(alone[model.ITEM_SEQ])[0]
        left_out = generated.union(shop.raw_sequences()[user][:-1] if masks_history else ())
        names = data.id2token(data.iid_field, np.arange(len(row)))
        offered = torch.tensor([name not in left_out for name in names])
        offered[0] = False
        assert torch.allclose(row[offered], expected[offered], atol=1e-5)
        assert torch.isneginf(row[~offered]).all()
        assert torch.equal(of_user, row.sort(descending=True).values[:7])
        assert torch.equal(row[best], of_user)
    lone = next(user for user, items in shop.raw_sequences().items() if len(items) < 3)
    with pytest.raises(DataError, match=f"no history to start from for these users: {lone}"):
        full_sort_topk(data.token2id(data.uid_field, [users[0], lone]), model, test, k=3)


def test_checkpoint_is_loaded_where_its_data_have_moved_and_refused_beside_others(
    tmp_path, data_path, write_dataset, make_shop, caplog
):
    given = shutil.copytree(data_path, tmp_path / "given")
    run = recbole_edt.run_recbole_edt("SASRec", "tiny", None, settings("SASRec", given))
    path = Path(run["checkpoint"])
    caplog.set_level("WARNING")
    given.rename(tmp_path / "dataset")  # where the plugin looks by itself
    assert load_data_and_model(path)[0]["data_path"] == str(tmp_path / "dataset" / "tiny")
    (told,) = [r.message for r in caplog.records if "is not there: " in r.message]
    assert f"{given / 'tiny'} is not" in told and f"{tmp_path / 'dataset' / 'tiny'} is re" in told
    shutil.rmtree("dataset")
    write_dataset(tmp_path / "dataset", make_shop(seed=1, n_items=(20, 22)))
    with pytest.raises(
        CheckpointError,
        match=r"trained on \d+ items, of which tiny lacks .*dataset/tiny/tiny.item .*--data_p",
    ):
        load_data_and_model(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_data_and_model(path)


def test_settings_that_recbole_took_from_a_run_of_its_own_come_back(data_path):
    """RecBole's configuration takes any key."""
    changes = settings("LLMEDT", data_path, inner_size=24, loss_decimal_place=2)
    run_recbole("LLMEDT", "tiny", config_dict=nest(changes))
    (path,) = (path for path in Path("saved").iterdir() if path.suffixes == [".pth"])
    config, model, *_ = load_data_and_model(path)
    assert (config["inner_size"], config["loss_decimal_place"]) == (24, 2)
    assert (
        config["MODEL_TYPE"] is type(model).type and config["eval_args"]["mode"]["test"] == "full"
    )


# --- saved datasets and loaders -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "way"),
    [("LLMEDT", "run_recbole"), ("LLMEDT", "run_recbole_edt"), ("SASRec", "run_recbole_edt")],
)
def test_saved_dataset_and_loaders_give_the_same_run(model, way, data_path, monkeypatch):
    def run(**changes):
        given = settings(model, data_path, **changes)
        if way == "run_recbole_edt":
            return recbole_edt.run_recbole_edt(model, "tiny", None, given)["test"]
        return run_recbole(model, "tiny", config_dict=nest(given))["test_result"]

    expected = run(save_dataset=True, save_dataloaders=True)
    names = {"tiny-CrossDomainDataset.pth", f"tiny-for-{model}-dataloader.pth"}
    assert names < set(os.listdir("saved"))
    assert run(checkpoint_dir="plain") == expected  # saving changes nothing
    with monkeypatch.context() as patch:
        patch.setattr(CrossDomainDataset, "_load_data", None)
        patch.delattr(CrossDomainDataset, "build")
        assert run() == expected
        paths = {
            "dataset_save_path": "saved/tiny-CrossDomainDataset.pth",
            "dataloaders_save_path": f"saved/tiny-for-{model}-dataloader.pth",
        }
        assert run(checkpoint_dir="elsewhere", **paths) == expected


def test_loaders_from_a_file_follow_the_configuration_that_loads_them(data_path):
    first = EDTConfig("LLMEDT", "tiny", None, settings("LLMEDT", data_path, save_dataloaders=True))
    assert load_split_dataloaders(first) is None
    data_preparation(first, create_dataset(first))
    changes = {"n_negatives": 3, "train_batch_size": 5, "eval_batch_size": 7, "candidate_seed": 1}
    second = EDTConfig("LLMEDT", "tiny", None, settings("LLMEDT", data_path, **changes))
    train, valid, test = load_split_dataloaders(second)
    batch = next(iter(train))
    assert len(batch) == 5 and len(batch["negatives_0"]) == 3
    assert len(next(iter(valid))[0]) == len(next(iter(test))[0]) == 7
    fresh = data_preparation(EDTConfig("LLMEDT", "tiny", None, {
        **settings("LLMEDT", data_path, **changes), "checkpoint_dir": "none",
    }), create_dataset(second))  # fmt: skip
    assert np.array_equal(
        test._dataset.sampled_candidates("test", "uni5"),
        fresh[2]._dataset.sampled_candidates("test", "uni5"),
    )
    for mine, theirs in zip(train, fresh[0], strict=True):
        for field in mine.columns:
            assert torch.equal(mine[field], theirs[field])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"augmentation": True}, "it has augmentation False, not True"),
        ({"MAX_ITEM_LIST_LENGTH": 4}, "it has MAX_ITEM_LIST_LENGTH 50, not 4"),
        ({"file": "changed"}, "the atomic files have changed"),
    ],
)
def test_saved_dataset_of_other_data_or_settings_is_not_used(tmp_path, data_path, changes, reason):
    given = shutil.copytree(data_path, tmp_path / "given")

    def read(**changes):
        return create_dataset(
            EDTConfig("SASRec", "tiny", None, settings("SASRec", given, **changes))
        )

    read(save_dataset=True)
    if changes.pop("file", None):
        with (given / "tiny" / "tiny.inter").open("a") as file:
            file.write("u1\tart1\t5\t99\t0\n")
    found, expected = read(**changes), read(**changes, checkpoint_dir="none")
    assert np.array_equal(found.sequences.items, expected.sequences.items)
    assert found.max_item_list_len == expected.max_item_list_len
    named = {"dataset_save_path": "saved/tiny-CrossDomainDataset.pth"}
    with pytest.raises(ConfigError, match=f"does not fit this run: {reason}"):
        read(**changes, **named)
    Path(named["dataset_save_path"]).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="is damaged"):
        read(**named)
    with pytest.raises(ConfigError, match=r"dataset_save_path none\.pth: there is no such file"):
        read(dataset_save_path="none.pth")


def test_a_dataset_of_which_loaders_were_made_is_not_saved(data_path):
    config = Config("LLMEDT", "tiny", config_dict=nest(settings("LLMEDT", data_path)))
    data = create_dataset(config)
    data.save()
    data_preparation(config, data)
    with pytest.raises(ConfigError, match="before data_preparation"):
        data.save()
    assert data_preparation(config, create_dataset(config))


@pytest.mark.parametrize("name", ["LLMEDT", "C2DSR"])
def test_a_trainer_of_ones_own_trains_a_model_of_the_plugin(name, data_path, tmp_path):
    epochs = []

    class Mine(Trainer):
        def __init__(self, config, model, note):
            super().__init__(config, model)
            self.note = note

        def _train_epoch(self, *args, **kwargs):
            epochs.append(self.note)
            return super()._train_epoch(*args, **kwargs)

    given = settings(name, data_path, checkpoint_dir=str(tmp_path), finetune_epochs=1)
    config = Config(name, "tiny", config_dict=nest(given))
    data = create_dataset(config)
    train, valid, test = data_preparation(config, data)
    model = get_model(name)(config, train.dataset)
    mine = Mine(config, model, note="mine")
    mine.fit(train, valid, show_progress=False)
    result = mine.evaluate(test)
    assert epochs == ["mine"] * (2 if name == "LLMEDT" else 1)
    assert model.finetuning == (name == "LLMEDT")
    again = trainer_class(type(model))(config, model)
    assert again.evaluate(test, load_best_model=False) == result
    assert type(Trainer(config, model)) is trainer_class(type(model))


def test_an_epoch_and_a_validation_of_ones_own_give_what_the_plugins_give(data_path):
    class Mine(Trainer):
        """As RecBole's guide to own trainers has it: nothing calls `super()`."""

        def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
            self.model.train()
            total = 0.0
            for batch in train_data:
                self.optimizer.zero_grad()
                loss = self.model.calculate_loss(batch.to(self.device))
                loss.backward()
                self.optimizer.step()
                total += loss.item()
            return total

        def _valid_epoch(self, valid_data, show_progress=False):
            result = self.evaluate(valid_data, load_best_model=False)
            return calculate_valid_score(result, self.valid_metric), result

    given = settings("C2DSR", data_path, epochs=3, train_batch_size=16)
    config = Config("C2DSR", "tiny", config_dict=nest(given))
    found = []
    for made in (Mine, Trainer):
        train, valid, test = data_preparation(config, create_dataset(config))
        init_seed(config["seed"], True)
        trainer = made(config, get_model("C2DSR")(config, train.dataset))
        trainer.fit(train, valid, verbose=False, show_progress=False)
        found.append((trainer.best_valid_result, trainer.evaluate(test), trainer.timing["epochs"]))
        assert trainer.average and min(trainer.timing.values()) > 0
    assert found[0] == found[1] and found[0][2] == 3


@pytest.mark.parametrize("mode", ["full", "uni5"])
def test_a_trainer_evaluates_the_users_of_each_loader_that_it_is_given(data_path, mode):
    given = settings(
        "SASRec", data_path, topk=[2], valid_metric="Hit@2", **{"eval_args.mode": mode}
    )
    long = {**given, "user_inter_num_interval": "[7,inf)"}
    configs = [EDTConfig("SASRec", "tiny", None, keys) for keys in (given, long)]
    loaders = [data_preparation(config, create_dataset(config)) for config in configs]
    model = get_model("SASRec")(configs[0], loaders[0][0].dataset)
    trainer = trainer_class(SASRec)(configs[0], model)
    found = [trainer.evaluate(test, load_best_model=False) for *_, test in loaders]
    assert len({len(test.dataset) for *_, test in loaders}) == 2
    for (*_, test), result in zip(loaders, found, strict=True):
        alone = trainer_class(SASRec)(configs[0], model)
        assert alone.evaluate(test, load_best_model=False) == result
    ranking = trainer.rankings["test", mode]
    trainer.evaluate(loaders[1][2], load_best_model=False)
    assert trainer.rankings["test", mode] is ranking  # kept for the next evaluation of a loader


def test_scores_that_are_not_numbers_are_told_of_once(data_path, caplog):
    class Broken(SASRec):
        def full_sort_predict(self, interaction):
            return super().full_sort_predict(interaction) * float("nan")

    given = settings("SASRec", data_path, state="WARNING")
    found = recbole_edt.run_recbole_edt(Broken, "tiny", None, given)
    assert found["test"]["overall"]["ndcg@3"] == 0
    assert caplog.text.count("scores of Broken are not numbers (NaN)") == 1


def test_loaders_of_another_kind_of_model_are_refused(data_path):
    config = EDTConfig("SASRec", "tiny", None, settings("SASRec", data_path, save_dataloaders=True))
    data_preparation(config, create_dataset(config))
    path = "saved/tiny-for-SASRec-dataloader.pth"
    raw = {"augmentation": False, "augmented_histories": True}  # as SASRec has it
    changes = settings("LLMEDT", data_path, dataloaders_save_path=path, **raw)
    with pytest.raises(ConfigError, match="its loaders are for other models than LLMEDT"):
        recbole_edt.run_recbole_edt("LLMEDT", "tiny", None, changes)


def test_loading_a_checkpoint_never_unpickles_what_lies_beside_it(data_path, monkeypatch):
    changes = settings("SASRec", data_path, save_dataset=True, save_dataloaders=True)
    results = recbole_edt.run_recbole_edt("SASRec", "tiny", None, changes)
    monkeypatch.setattr(saved_data.pickle, "loads", lambda _: pytest.fail("unpickled"))
    load_data_and_model(results["checkpoint"])


# --- RecBole's own pipeline and scripts -----------------------------------------------------------


def test_recbole_itself_reads_data_of_the_contract_without_any_setting(data_path, shop, caplog):
    shutil.copytree(data_path, "dataset_atomic")
    config = Config("SASRec", "tiny", config_dict={"epochs": 1, "state": "ERROR"})
    assert config["train_neg_sample_args"]["distribution"] == "none"  # as its loss, CE, needs it
    caplog.set_level("WARNING")
    data = create_dataset(config)
    assert "do not compare its results" in caplog.text
    test = data_preparation(config, data)[2]
    rows = test._dataset.inter_feat
    users = data.id2token("user_id", rows["user_id"].numpy())
    items = data.id2token("item_id", rows["item_id"].numpy())
    targets = dict(zip(users, items, strict=True))
    expected = shop.raw_sequences()  # neither inserted rows nor times, which are noise here
    assert targets == {user: items[-1] for user, items in expected.items() if len(items) > 2}
    given = {"data_path": str(data_path), "load_col": {"inter": ["user_id", "item_id"]}}
    assert Config("BPR", "tiny", config_dict=given)["TIME_FIELD"] == "timestamp"


def test_wandb_that_is_missing_is_said_before_anything_is_written(data_path):
    with pytest.raises(DependencyError, match="log_wandb needs wandb"):
        recbole_edt.run_recbole_edt(
            "SASRec", "tiny", None, settings("SASRec", data_path, log_wandb=True)
        )
    assert os.listdir() == []


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for wandb, with the runs that were begun."""
    wandb: Any = ModuleType("wandb")

    def init(**_):
        ended = partial(setattr, wandb, "run", None)
        wandb.run = SimpleNamespace(logged=[], summary={}, finish=ended)
        wandb.runs.append(wandb.run)

    vars(wandb).update(
        __spec__=ModuleSpec("wandb", None), run=None, runs=[], init=init,
        define_metric=lambda *_, **__: None,
        log=lambda parts, commit: wandb.run.logged.extend(parts),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("recbole.utils.wandblogger.opened", None)
    return wandb


def test_wandb_has_a_run_of_each_training_with_its_stages_validation_and_test(data_path, wandb):
    for name in ("SASRec", "LLMEDT"):
        changes = settings(name, data_path, log_wandb=True, report_modes=["uni5"])
        results = recbole_edt.run_recbole_edt(name, "tiny", None, changes)
        assert wandb.run.summary["eval/ndcg@3"] == results["test"]["overall"]["ndcg@3"]
    stage_1 = {"train/train_loss", "valid/ndcg@3"}
    assert len(wandb.runs) == 2 and stage_1 <= {*wandb.runs[0].logged} & {*wandb.runs[1].logged}
    assert {f"stage2/{key}" for key in stage_1} <= {*wandb.runs[1].logged} - {*wandb.runs[0].logged}
    wandb.init()  # the user's own
    for _ in range(2):
        recbole_edt.run_recbole_edt("LLMEDT", "tiny", None, changes | {"epochs": 1})
    assert len(wandb.runs) == 3 and stage_1 <= {*wandb.run.logged}


def test_wandb_has_one_run_of_several_processes(wandb, monkeypatch):
    monkeypatch.setattr("recbole_edt.distributed.rank", lambda: 1)
    assert not WandbLogger(SimpleNamespace(log_wandb=True)).log_wandb
    assert not wandb.runs


def test_recboles_classes_work_where_no_configuration_is_made(python, tmp_path):
    code = """
        import recbole_edt
        from recbole.data.interaction import Interaction
        from recbole.evaluator.metrics import NDCG
        import numpy as np
        print(Interaction({"price": [0.5]})["price"].tolist())
        hits = np.array([[False, True]])
        ndcg = NDCG({"topk": [2], "metric_decimal_place": 4})
        print(ndcg.metric_info(hits, np.array([1]))[0, 1].round(4))
    """
    result = python("-c", dedent(code), cwd=tmp_path)
    assert result.stdout.split() == ["[0.5]", "0.6309"], result.stderr


def test_packages_that_are_imported_anew_are_patched_anew(python):
    code = """
        import sys
        import recbole_edt, recbole.trainer
        for name in [*sys.modules]:
            if name.startswith("recbole"):
                del sys.modules[name]  # as what reloads changed code does
        import recbole_edt, recbole.trainer
        print(recbole.trainer.LLMEDTTrainer.__name__)
    """
    done = python("-c", dedent(code))
    assert done.stdout == "TwoStageTrainer\n", done.stderr


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="the real ray is installed")
def test_tuning_scripts_import_ray_where_it_is_missing_and_nobody_else_does(monkeypatch):
    script = """
from recbole.trainer import HyperTuning
from recbole.quick_start import objective_function
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
ray.init()
"""
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    with pytest.raises(DependencyError, match="ray is not installed: tune with Hyperopt"):
        exec(script, {})
    monkeypatch.undo()
    with pytest.raises(ModuleNotFoundError):
        exec(script.replace("HyperTuning", "Trainer"), {})


def test_groups_of_models_with_different_metrics_keep_their_rows():
    from recbole.utils import list_to_latex

    rows = [{"Model": "A", "hit@3": 0.5}, {"Model": "B", "hit@3": 0.25, "recall@3": 0.125}]
    frame, tex = list_to_latex(rows, subset_columns=["hit@3"])
    assert frame["recall@3"].tolist()[1] == 0.125 and np.isnan(frame["recall@3"].tolist()[0])
    assert r"A & \bfseries 0.5" in tex


def test_sparse_matrices_are_filled_as_recboles_graph_models_fill_them():
    from recbole.model.general_recommender import lightgcn

    matrix = lightgcn.sp.dok_matrix((2, 3), dtype=np.float32)
    matrix._update({(0, 2): 1, (1, 0): 4})
    assert matrix.toarray().tolist() == [[0, 0, 1], [4, 0, 0]]
