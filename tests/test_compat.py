"""Stock RecBole 1.2.1 runs on this Python, numpy, pandas and torch, and without ray."""

import importlib.util
import os
import pickle
import random
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_edt import compat
from recbole_edt.errors import CheckpointError

compat.patch_recbole()

ROOT = Path(__file__).resolve().parent.parent
USERS, ITEMS, LENGTH = 40, 30, 8
OPTIONS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "epochs": 1, "use_gpu": False,
    "train_neg_sample_args": None, "hidden_size": 16, "inner_size": 16, "show_progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def atomic(tmp_path_factory):
    """Atomic files with every field type, and with missing values in each of them."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("atomic")
    (folder / "tiny").mkdir()
    inter = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        for time, item in enumerate(rng.sample(range(ITEMS), LENGTH)):
            inter.append(f"u{user}\ti{item}\t{time}")
    # i0 is complete, i1 has nothing but its id; the last two items have no row at all
    item = ["item_id:token\tdomain:token\ttitle:token_seq\tprice:float\tvec:float_seq"]
    item += ["i0\tA\tred wool hat\t10\t0.5 0.25", "i1\t\t\t\t", "i2\tB\that\t20\t1"]
    item += [f"i{i}\tB\tblue\t30\t2 3" for i in range(3, ITEMS - 2)]
    for suffix, lines in {"inter": inter, "item": item}.items():
        (folder / "tiny" / f"tiny.{suffix}").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def config_of(atomic, tmp_path, monkeypatch):
    """Build the ``Config`` of a stock model; whatever it writes goes below ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])

    def build(model, **changes):
        from recbole.config import Config

        options = OPTIONS | {"data_path": str(atomic), "embedding_size": 16, "state": "ERROR"}
        return Config(model=model, dataset="tiny", config_dict=options | changes)

    return build


def trained(config):
    """Train and return (trainer, test data)."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    init_seed(1, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid, verbose=False, show_progress=False)
    return trainer, test


@pytest.fixture(scope="module")
def run_patched(python):
    """Run code in a fresh interpreter, with only ``compat`` of the package imported."""
    # An empty package of its name in place of the real one: the test sees what the patches import.
    alone = f"""
        import sys, types
        package = types.ModuleType("recbole_edt")
        package.__path__ = [{str(ROOT / "recbole_edt")!r}]
        sys.modules["recbole_edt"] = package
        from recbole_edt.compat import patch_recbole
    """
    return lambda code, cwd: python("-c", dedent(alone) + dedent(code), cwd=cwd)


@pytest.fixture(scope="module")
def run_recbole_outside(run_patched, atomic, tmp_path_factory):
    """RecBole's own ``run_recbole`` in a process that has done no more than patch_recbole."""
    cwd = tmp_path_factory.mktemp("run")
    options = OPTIONS | {"data_path": str(atomic)}
    first = run_patched(
        f"""
        patch_recbole()
        from recbole.quick_start import objective_function, run_recbole
        print("left behind:", [name for name in sys.modules if name.split(".")[0] == "ray"])
        tuned = objective_function({options!r} | {{"model": "SASRec", "dataset": "tiny"}})
        print("tuned:", tuned["model"])
        result = run_recbole(model="SASRec", dataset="tiny", config_dict={options!r})
        print("hit:", float(result["test_result"]["hit@10"]))
        """,
        cwd,
    )
    return cwd, first


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="the real ray is installed")
def test_quick_start_and_its_objective_function_work_without_ray_and_noise(run_recbole_outside):
    _, first = run_recbole_outside
    assert "left behind: []" in first.stdout, first.stderr
    assert "tuned: SASRec" in first.stdout
    assert "hit: 0." in first.stdout, first.stderr
    assert "Warning" not in first.stderr


def test_saved_run_is_loaded_in_a_fresh_process(run_patched, run_recbole_outside):
    cwd, _ = run_recbole_outside
    second = run_patched(
        """
        patch_recbole()
        from pathlib import Path
        from recbole.quick_start import load_data_and_model
        import torch
        load = torch.load
        saved = min(Path("saved").glob("SASRec*.pth"))
        model = load_data_and_model(str(saved))[1]
        print(type(model).__name__, torch.load is load)
        """,
        cwd,
    )
    assert second.stdout.split("\n")[-2] == "SASRec True", second.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_gpu_is_loaded_where_there_is_none(run_patched, run_recbole_outside):
    cwd, _ = run_recbole_outside
    second = run_patched(
        """
        patch_recbole()
        from pathlib import Path
        from recbole.quick_start import load_data_and_model
        from recbole_edt.compat import load_checkpoint
        import torch
        content = load_checkpoint(min(Path("saved").glob("SASRec*.pth")))
        content["config"]["device"] = torch.device("cuda")
        torch.serialization.location_tag = lambda storage: "cuda:0"
        torch.save(content, "gpu.pth", pickle_protocol=4)
        config, model, *_ = load_data_and_model("gpu.pth")
        print(config["device"], next(model.parameters()).device)
        """,
        cwd,
    )
    assert second.stdout.split("\n")[-2] == "cpu cpu", second.stderr


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec"])
def test_stock_model_trains_and_its_checkpoint_gives_the_same_result(config_of, model):
    trainer, test = trained(config_of(model))
    trained_weights = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    expected = trainer.evaluate(test, load_best_model=False)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.zero_()
    assert trainer.evaluate(test, load_best_model=True) == expected
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, trained_weights[name])
    trainer.resume_checkpoint(trainer.saved_model_file)
    assert trainer.start_epoch == 1


def test_checkpoint_that_holds_a_whole_layer_and_its_dataset_is_read(config_of):
    load_col = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "domain"]}
    trainer, test = trained(config_of("SASRecF", load_col=load_col, selected_features=["domain"]))
    expected = trainer.evaluate(test, load_best_model=False)
    assert trainer.evaluate(test, load_best_model=True) == expected


class Calls:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_checkpoint_that_would_run_code_is_refused(tmp_path):
    from recbole.config import Config

    for protocol in (2, 4):
        torch.save({"x": Calls(os.getcwd)}, tmp_path / "bad.pth", pickle_protocol=protocol)
        with pytest.raises(CheckpointError, match="getcwd"):
            compat.load_checkpoint(tmp_path / "bad.pth")
    # Config evaluates the strings it is given: calling it would be running code.
    torch.save({"x": Calls(Config, "SASRec", "tiny")}, tmp_path / "bad.pth", pickle_protocol=4)
    with pytest.raises(TypeError):
        compat.load_checkpoint(tmp_path / "bad.pth")


def test_torch_load_outside_recbole_stays_strict(tmp_path, config_of):
    import recbole.trainer.trainer as trainer

    torch.save({"config": config_of("SASRec")}, tmp_path / "c.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "c.pth")
    assert trainer.torch.load is compat.load_checkpoint
    assert trainer.torch.Tensor is torch.Tensor


@pytest.fixture
def items(config_of):
    """The item features after loading, by item token."""
    from recbole.data import create_dataset

    dataset = create_dataset(config_of("SASRec", load_col=None, filter_inter_by_user_or_item=False))
    features = dataset.item_feat
    return dataset, {
        token: features.iloc[dataset.token2id("item_id", token)]
        for token in dataset.field2id_token["item_id"]
    }


def test_missing_values_are_filled_and_sequences_keep_their_rows(items):
    dataset, rows = items
    empty = (rows["i1"], rows[f"i{ITEMS - 1}"])  # an item of an id alone, and one without a row
    mean = pytest.approx(np.mean([10, 20] + [30] * (ITEMS - 5)))
    assert [row["price"] for row in (rows["i0"], *empty)] == [10, mean, mean]
    assert dataset.id2token("domain", int(rows["i0"]["domain"])) == "A"
    assert [row["domain"] for row in empty] == [0, 0]
    assert list(dataset.id2token("title", rows["i0"]["title"])) == ["red", "wool", "hat"]
    assert list(dataset.id2token("title", rows["i2"]["title"])) == ["hat"]
    assert list(rows["i0"]["vec"]) == [0.5, 0.25]
    assert [len(row[field]) for row in empty for field in ("title", "vec")] == [0, 0, 0, 0]


def test_sequences_of_items_keep_their_rows_beside_a_knowledge_graph():
    """Where its dataset renumbers items, so that those it has entities for come last."""
    from recbole.data.dataset import KnowledgeBasedDataset
    from recbole.utils import FeatureType

    feat = pd.DataFrame({"shown": [np.array([1]), np.array([2, 1, 3])]})
    dataset = object.__new__(KnowledgeBasedDataset)
    dataset.field2id_token, dataset.field2token_id = {}, {}
    dataset.field2type = {"shown": FeatureType.TOKEN_SEQ}
    dataset.field2feats = lambda field: [feat]
    dataset._reset_ent_remapID("shown", np.array([0, 3, 1, 2]), [], {})
    assert [row.tolist() for row in feat["shown"]] == [[3], [1, 3, 2]]


def test_a_folder_that_another_run_makes_first_is_no_error(tmp_path, monkeypatch):
    from recbole.utils import ensure_dir

    folder = tmp_path / "log" / "SASRec"
    exists = os.path.exists

    def just_too_late(path):
        found = exists(path)
        os.makedirs(path, exist_ok=True)
        return found

    monkeypatch.setattr(os.path, "exists", just_too_late)
    ensure_dir(str(folder))
    assert folder.is_dir()


def test_metrics_in_the_log_have_four_decimals():
    from recbole.trainer.trainer import dict2str

    told = dict2str({"hit@10": 0.0720862930807682, "ndcg@10": 0.5})
    assert told.split() == ["hit@10", ":", "0.0721", "ndcg@10", ":", "0.5000"]


@pytest.mark.parametrize(
    ("name", "predicted", "true", "expected"),
    [
        ("MAE", [1.0, 3.0], [2.0, 5.0], 1.5),
        ("RMSE", [1.0, 3.0], [2.0, 5.0], 2.5**0.5),
        ("AUC", [0.1, 0.2, 0.05], [0, 1, 1], 0.5),
    ],
)
def test_figures_of_ratings_and_clicks_are_recboles(name, predicted, true, expected):
    metric = getattr(import_module("recbole.evaluator.metrics"), name)
    found = metric.metric_info(object.__new__(metric), np.array(predicted), np.array(true))
    assert found == pytest.approx(expected)
