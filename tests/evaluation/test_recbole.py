"""Our table is RecBole's: the same checkpoint, evaluated by its own loaders, Trainer and Evaluator.

RecBole knows one domain alone, from files that hold nothing else; the plugin knows both. Users have
no item twice, so that no protocol is in doubt, and scores of no two items are the same.
"""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.evaluator import Collector
from recbole.utils import get_model, get_trainer, init_seed

from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.trainer import trainer_class

METRICS = [
    "Recall", "MRR", "NDCG", "Hit", "Precision", "MAP", "GAUC",
    "ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage",
]  # fmt: skip
KEYS = {
    "metrics": METRICS, "topk": [1, 3, 10], "valid_metric": "MRR@10", "metric_decimal_place": 12,
    "epochs": 2, "train_batch_size": 64, "learning_rate": 0.01, "eval_batch_size": 16,
    "hidden_size": 64, "use_gpu": False, "show_progress": False, "state": "ERROR",
}  # fmt: skip
EVALUATION = {"mode": "full", "split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
PHASES = ("valid", "test")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_dataset):
    """Folders of the same users and items of `art`: by themselves, and beside those of `bike`."""
    rng, domains = random.Random(5), {"art": 40, "bike": 30}
    items = {domain: [f"{domain}{n}" for n in range(size)] for domain, size in domains.items()}
    rows = {
        domain: [
            (f"{domain}-user{user}", item, 86_400 * place, place)
            for user in range(50)
            for place, item in enumerate(rng.sample(own, rng.randint(4, 9)))
        ]
        for domain, own in items.items()
    }
    seen = list(dict.fromkeys(item for _, item, *_ in rows["art"]))  # RecBole's order of the ids
    assert len(seen) == domains["art"]
    art, bike = [(item, "art") for item in seen], [(item, "bike") for item in items["bike"]]
    alone, both = (tmp_path_factory.mktemp(name) for name in ("alone", "both"))
    write_dataset(alone, rows=rows["art"], items=art)
    write_dataset(both, rows=rows["bike"] + rows["art"], items=bike + art)
    return alone, both


class MendedCollector(Collector):
    """RecBole 1.2.1 moves all it collects to the CPU, numbers and counters among it, and fails."""

    def get_data_struct(self):
        held = self.data_struct._data_dict
        counts = {key: held.pop(key) for key in list(held) if not hasattr(held[key], "cpu")}
        struct = super().get_data_struct()
        held.update(counts)
        for key, value in counts.items():
            struct[key] = value
        return struct


class Stock:
    """A model that RecBole has trained, with its own configuration, data, loaders and trainer."""

    def __init__(self, model: str, folder, monkeypatch) -> None:
        monkeypatch.setattr("sys.argv", ["test"])  # RecBole's Config reads them
        keys = {"data_path": str(folder), "eval_args": EVALUATION, **KEYS,
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}  # fmt: skip
        if model == "SASRec":
            keys |= {"repeatable": True, "train_neg_sample_args": None}
        self.config = Config(model, "tiny", config_dict=keys)
        init_seed(1, True)
        self.data = create_dataset(self.config)
        self.train, *self.loaders = data_preparation(self.config, self.data)
        self.model = get_model(model)(self.config, self.train.dataset)
        trainer = get_trainer(self.config["MODEL_TYPE"], model)
        self.trainer = trainer(self.config, self.model)
        self.trainer.eval_collector = MendedCollector(self.config)
        self.trainer.fit(self.train, saved=False, verbose=False)

    def mask_histories(self) -> None:
        """Leave out what a user has, as the plugin does; RecBole ranks it for sequential models."""
        scores_of = self.trainer._full_sort_batch_eval

        def masked(batch):
            interaction, scores, rows, targets = scores_of(batch)
            history = interaction["item_id_list"].to(scores.device)
            return interaction, scores.scatter(1, history, -torch.inf), rows, targets

        self.trainer._full_sort_batch_eval = masked

    def count_all_rows(self, dataset) -> None:
        """Count all training rows; RecBole leaves out every user's first, which is no target."""
        rows = dataset.train_sequences
        tokens = dataset.id2token("item_id", rows.items)
        known = self.data.field2token_id["item_id"]
        counted = Counter(known[token] for token in tokens if token in known)
        self.trainer.eval_collector.data_struct["data.count_items"] = counted


class Ours:
    """The same model on the plugin's data, with the weights that RecBole trained."""

    def __init__(self, stock: Stock, folder) -> None:
        name = stock.config["model"]
        keys = {"data_path": str(folder), "eval_args.mode": "full", **KEYS}
        if name == "BPR":
            keys.pop("hidden_size")
        self.config = EDTConfig(name, "tiny", None, keys)
        self.data = CrossDomainDataset(self.config)
        train, *self.loaders = data_preparation(self.config, self.data)
        self.model = get_model(name)(self.config, train._dataset)
        state = self.model.state_dict()
        for key, values in stock.model.state_dict().items():
            if key.startswith(("user_embedding", "item_embedding")):  # ids are others
                field = f"{key[:4]}_id"
                tokens, ids = stock.data.field2id_token[field], self.data.field2token_id[field]
                state[key][[ids[token] for token in tokens]] = values
            else:
                state[key] = values
        self.model.load_state_dict(state)
        self.trainer = trainer_class(type(self.model))(self.config, self.model)


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_tables_of_one_domain_agree(model, folders, monkeypatch):
    stock = Stock(model, folders[0], monkeypatch)
    ours = Ours(stock, folders[1])
    if model == "SASRec":
        stock.mask_histories()
        stock.count_all_rows(ours.data)
    for phase, theirs, mine in zip(PHASES, stock.loaders, ours.loaders, strict=True):
        expected = stock.trainer.evaluate(theirs, load_best_model=False)
        ours.trainer.evaluate(mine, load_best_model=False)
        found = ours.trainer.reports[phase]["domains"]["art"]
        assert found["n"] == 50 and expected.keys() == found.keys() - {"n", "mrr"}
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=5e-7), (phase, name)
        assert 0 < expected["hit@3"] < 1 and len({*np.round([*expected.values()], 6)}) > 20
