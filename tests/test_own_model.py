"""Classes of the user as models: found by their module, with keys and errors of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer
from running import SMALL

from recbole_edt import registry
from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import TARGET_DOMAIN, CrossDomainDataset
from recbole_edt.errors import ConfigError
from recbole_edt.experiment.runs import Run, RunStore, keys_for
from recbole_edt.model.llmedt import LLMEDT
from recbole_edt.quick_start import run_recbole_edt
from recbole_edt.recommend.recommender import Recommender
from recbole_edt.registry import find_model
from recbole_edt.run_settings import help_of_run
from recbole_edt.settings import nest
from recbole_edt.trainer import CrossDomainMixin, trainer_class

MODULE = """
from recbole.model.general_recommender import BPR

class Mine(BPR):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.weight = 0.5 if config["weight"] is None else config["weight"]
        if self.weight == 13:
            raise RuntimeError("an unlucky weight")

    def calculate_loss(self, interaction):
        return self.weight * super().calculate_loss(interaction)

class Words:
    pass
"""


@pytest.fixture
def module(monkeypatch):
    """Write a module into the working folder; its name is new, and gone afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_registered", {})

    def write(text=MODULE, name="mymodels") -> str:
        sys.modules.pop(name, None)
        Path(f"{name}.py").write_text(text)
        return name

    yield write
    sys.modules.pop("mymodels", None)


def settings(data_path, **changes):
    return {**SMALL, "data_path": data_path, **changes}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mymodels:Mone", "mymodels has no class 'Mone', did you mean 'Mine'"),
        ("nowhere:Mine", "no module nowhere in "),
        ("mymodels:Words", "mymodels:Words is no model"),
        ("mymodels:", "not of the form package.module:Class"),
        (":Mine", "not of the form package.module:Class"),
    ],
)
def test_a_class_that_is_not_found_is_one_clear_line(name, message, module):
    module()
    with pytest.raises(ConfigError, match=message):
        find_model(name)


def test_a_module_is_found_by_its_path_too_and_its_own_faults_are_shown(module):
    module()
    assert find_model("mymodels.py:Mine") is find_model("mymodels:Mine")
    for text, fault in (("import notthere", ModuleNotFoundError), ("a = b", NameError)):
        module(text)
        with pytest.raises(fault):
            find_model("mymodels:Mine")


def test_errors_of_the_class_keep_their_traceback(module, data_path):
    mine = find_model(f"{module()}:Mine")
    with pytest.raises(RuntimeError, match="an unlucky weight"):
        run_recbole_edt(mine, "tiny", None, settings(data_path, weight=13))
    with pytest.raises(
        ConfigError, match="model BPR: "
    ):  # of one line, where the class is not theirs
        run_recbole_edt("BPR", "tiny", None, settings(data_path, embedding_size=10**12))


def test_keys_are_those_that_the_class_reads(module, data_path):
    mine = find_model(f"{module()}:Mine")
    results = run_recbole_edt(mine, "tiny", None, settings(data_path, weight=0.25))
    assert (results["params"]["weight"], results["params"]["embedding_size"]) == (0.25, 64)
    for wrong, right in (("learning_rat", "learning_rate"), ("weigt", "weight")):
        with pytest.raises(
            ConfigError, match=f"Mine does not read the key '{wrong}', did you mean '{right}'"
        ):
            run_recbole_edt(mine, "tiny", None, settings(data_path, **{wrong: 1}))
    Path("Mine.yaml").write_text("weight: 3\n")
    config = EDTConfig(mine, "tiny", None, settings(data_path))
    assert config["weight"] == 3
    with pytest.raises(ConfigError, match="weight must be a whole number"):
        EDTConfig(mine, "tiny", None, settings(data_path, weight="much"))


def test_keys_may_be_read_from_the_final_settings_too(module, data_path):
    """RecBole's `Config` has no `get`: many classes ask the dictionary behind it."""
    read = 'config["weight"] is None else config["weight"]'
    text = MODULE.replace(read, 'config.final_config_dict.get("weight") is None else 2.0')
    name = f"{module(text)}:Mine"
    assert run_recbole_edt(name, "tiny", None, settings(data_path, weight=0.25))
    with pytest.raises(ConfigError, match="does not read the key 'wait'"):
        run_recbole_edt(name, "tiny", None, settings(data_path, wait=1))


def test_help_shows_the_property_files_of_a_class_and_of_its_base(module):
    name = f"{module()}:Mine"
    Path("Mine.yaml").write_text("weight: 3  # of the loss\n")
    text = help_of_run([f"--model={name}", "--help"])
    assert "embedding_size: 64" in text  # BPR's, of RecBole
    assert text.rstrip().endswith("weight: 3  # of the loss")


def test_keys_of_a_comparison_go_to_the_model_that_declares_them(module):
    name = f"{module()}:Mine"
    given = {"weight": 1, "k": 5, "epochs": 2}
    assert keys_for(given, name, "tiny", [name, "ItemKNN"]) == {"weight": 1, "epochs": 2}
    assert keys_for(given, "ItemKNN", "tiny", [name, "ItemKNN"]) == {"k": 5, "epochs": 2}


def test_an_edited_class_is_another_run(module, data_path, tmp_path):
    names = []
    for text in (MODULE, MODULE.replace("0.5", "0.6"), MODULE):
        run = Run(f"{module(text)}:Mine", "tiny", Path(data_path), 1)
        names.append(RunStore(tmp_path / "runs").name(run))
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("Mine-1-")


def test_checkpoints_are_served_by_the_class_that_wrote_them(module, data_path):
    name = f"{module()}:Mine"
    results = run_recbole_edt(name, "tiny", None, settings(data_path, weight=0.25))
    served = Recommender.load(results["checkpoint"], use_gpu=False)
    assert type(served.model) is find_model(name)
    assert served.model.weight == 0.25
    assert len(served.recommend("u0", k=3, domain=served.domains[0])) == 3


def test_a_class_may_leave_it_to_a_key_whether_it_trains_on_negatives(module, data_path):
    """As most published models do, which are edited copies of RecBole's SASRec."""
    text = """
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

class Mine(SequentialRecommender):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.items = nn.Embedding(self.n_items, 8)

    def full_sort_predict(self, interaction):
        return self.items(interaction[self.ITEM_SEQ]).mean(1) @ self.items.weight.T

    def calculate_loss(self, interaction):
        assert self.NEG_ITEM_ID not in interaction
        scores = self.full_sort_predict(interaction)
        return nn.functional.cross_entropy(scores, interaction[self.POS_ITEM_ID])
"""
    given = settings(data_path)
    with pytest.raises(ConfigError, match="give loss_type, CE for none or BPR"):
        run_recbole_edt(f"{module(text)}:Mine", "tiny", None, given)
    results = run_recbole_edt("mymodels:Mine", "tiny", None, {**given, "loss_type": "CE"})
    served = Recommender.load(results["checkpoint"], use_gpu=False)
    assert len(served.recommend("u0", k=3, domain=served.domains[0])) == 3


@pytest.mark.parametrize(
    ("scores", "message"),
    [("raise NotImplementedError", None), ("return every[:, 1:]", "26 scores .* the 27 item ids")],
)
def test_scores_are_one_for_each_item_or_of_single_pairs(module, data_path, scores, message):
    text = f"""
from recbole.model.general_recommender import BPR

class Mine(BPR):
    def full_sort_predict(self, interaction):
        every = super().full_sort_predict(interaction).view(len(interaction), -1)
        {scores}
"""
    name = f"{module(text)}:Mine"
    if message:
        with pytest.raises(ConfigError, match=message):
            run_recbole_edt(name, "tiny", None, settings(data_path))
    else:  # by `predict`, as RecBole does
        results = [run_recbole_edt(m, "tiny", None, settings(data_path)) for m in (name, "BPR")]
        assert results[0]["test"] == results[1]["test"]


def test_what_other_parameter_names_is_kept_and_served(module, data_path):
    text = """
import numpy as np
import torch
from recbole.model.general_recommender import BPR

class Mine(BPR):
    other_parameter_name = ["counts", "pairs", "seen", "steps"]
    pairs = seen = None
    steps = ()

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.counts = np.zeros(self.n_items)

    def calculate_loss(self, interaction):
        np.add.at(self.counts, interaction[self.ITEM_ID].numpy(), 1)
        self.pairs = np.outer(self.counts, self.counts)
        self.seen, self.steps = {"rows": len(interaction)}, (*self.steps, 1)
        return super().calculate_loss(interaction)

    def full_sort_predict(self, interaction):
        return torch.from_numpy(self.pairs[1]).repeat(len(interaction))
"""
    given = settings(data_path, epochs=2, valid_metric="mrr")
    results = run_recbole_edt(f"{module(text)}:Mine", "tiny", None, given)
    served = Recommender.load(results["checkpoint"], use_gpu=False).model
    assert served.counts.sum() and (served.pairs == np.outer(served.counts, served.counts)).all()
    assert len(served.steps) >= 1 and served.seen["rows"] > 0
    config, model, _, _, _, test = load_data_and_model(results["checkpoint"])
    trainer = trainer_class(type(model))(config, model)
    trainer.evaluate(test, load_best_model=False)
    assert trainer.reports["test"] == results["test"]


def test_a_sequential_class_reads_the_domains_of_rows_before_the_target(data_path):
    from recbole.model.sequential_recommender import GRU4Rec

    mine = type("Mine", (GRU4Rec,), {})
    config = EDTConfig(mine, "tiny", None, settings(data_path))
    data = create_dataset(config)
    for loader in data_preparation(config, data)[:2]:
        for batch in loader:
            batch = batch[0] if isinstance(batch, tuple) else batch
            domains = data.item_domain[batch["item_id"]]
            assert (batch[TARGET_DOMAIN].numpy() == domains).all()
            for domain in (0, 1):
                items = batch[f"item_id_list_{domain}"]
                assert ((items > 0).sum(1) == batch[f"item_length_{domain}"]).all()
                assert set(data.item_domain[items[items > 0]]) <= {domain}


def test_what_a_transform_adds_is_there_for_predictions_too(module, data_path):
    text = """
from recbole.model.sequential_recommender import STAMP

class Mine(STAMP):
    def full_sort_predict(self, interaction):
        ends = interaction["Inverse_item_id_list"][:, -1]
        return super().full_sort_predict(interaction) * (ends > 0)[:, None]
"""
    Path("Mine.yaml").write_text("transform: inverse_itemseq\n")
    results = run_recbole_edt(f"{module(text)}:Mine", "tiny", None, settings(data_path))
    served = Recommender.load(results["checkpoint"], use_gpu=False)
    assert len(served.recommend("u0", k=3, domain=served.domains[0])) == 3


def test_a_trainer_that_a_subclass_of_the_plugin_names_goes_through_both_stages(data_path):
    stages = []

    class Noting(Trainer):
        def _train_epoch(self, *args, **kwargs):
            stages.append(self.stage)
            return super()._train_epoch(*args, **kwargs)

    mine = type("Mine", (LLMEDT,), {"__module__": __name__, "trainer": Noting})
    keys = {"item_embedding": "id", "history_weight": 0.0}
    results = run_recbole_edt(mine, "tiny", None, settings(data_path, **keys))
    assert stages == [1, 2] and list(results["stages"]) == ["1", "2"]
    further = type("Further", (mine,), {"__module__": __name__})
    assert trainer_class(further).__mro__[1:] == trainer_class(mine).__mro__[1:]


def test_a_trainer_may_validate_in_its_own_way_and_the_run_reports_as_any(data_path):
    class Own(Trainer):
        def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
            assert len([batch for batch, *_ in eval_data]) == len(eval_data)
            return {"ndcg@3": float(self.stage)}  # the best epoch is the first one of stage 2

    mine = type("Mine", (LLMEDT,), {"__module__": __name__, "trainer": Own})
    keys = settings(data_path, item_embedding="id", history_weight=0.0)
    results = run_recbole_edt(mine, "tiny", None, keys)
    assert results["stages"]["2"]["valid"] == {"ndcg@3": 2.0}
    assert results["test"]["overall"]["n"] > 0


def test_recboles_own_look_ups_find_what_belongs_to_a_subclass_of_the_plugin(
    data_path, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setattr(registry, "_registered", {})
    mine = type("Mine", (LLMEDT,), {"__module__": __name__})
    keys = nest(settings(data_path, preset="paper"))
    config = Config(mine, "tiny", config_dict=keys)
    assert (config["model"], config["loss"]) == ("Mine", "bpr")
    assert type(create_dataset(config)) is CrossDomainDataset
    assert get_model("Mine") is mine
    trainer = get_trainer(config["MODEL_TYPE"], "Mine")
    assert trainer is trainer_class(mine) and issubclass(trainer, CrossDomainMixin)
    with pytest.raises(ConfigError, match="the name SASRec is taken"):
        Config(type("SASRec", (LLMEDT,), {"__module__": __name__}), "tiny", config_dict=keys)
