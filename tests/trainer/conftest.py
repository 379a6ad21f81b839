"""A tiny shop with embeddings, and trainers on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data import data_preparation
from recbole.utils import init_seed

from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.trainer import trainer_class

torch.set_num_threads(1)

SMALL = {
    "epochs": 3,
    "hidden_size": 16,
    "train_batch_size": 16,
    "learning_rate": 0.01,
    "eval_args.mode": "uni5",
    "topk": [3],
    "valid_metric": "NDCG@3",
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}
"""Settings of a run that takes a moment."""

OWN = {"finetune_epochs": 2, "finetune_learning_rate": 0.01, "n_negatives": 8}
"""Further ones that only LLM-EDT has."""


@pytest.fixture(scope="session")
def data_path(tmp_path_factory, make_shop, write_dataset) -> Path:
    """Folder with the dataset ``tiny``: 20 users of 4 to 8 rows, 12 + 14 items, embeddings."""
    shop = make_shop(seed=3, n_users=20, n_items=(12, 14), lengths=(4, 8))
    rng = np.random.default_rng(0)
    return write_dataset(
        tmp_path_factory.mktemp("data"),
        shop,
        users=[f"u{user}" for user in range(20)],
        item_emb=rng.normal(size=(len(shop.items), 6)).astype(np.float32),
        user_emb=rng.normal(size=(20, 6)).astype(np.float32),
    )


@pytest.fixture(scope="session")
def small(data_path) -> Callable[..., dict]:
    """Settings of a small run of a model: ``small("LLMEDT", epochs=1)``."""

    def settings(model="LLMEDT", **changes) -> dict:
        own = OWN if model.startswith("LLMEDT") else {}
        if model == "BERT4Rec":  # its loss is 0 / 0 for a batch too small to have any item masked
            own = {"train_batch_size": 32}
        known = EDTConfig(model, "tiny").known_keys()
        general = {key: value for key, value in SMALL.items() if key.split(".")[0] in known}
        return {"data_path": str(data_path), **general, **own, **changes}

    return settings


class Run:
    """A run as ``run_recbole_edt`` makes it, in pieces that a test can reach into."""

    def __init__(self, model: str, settings: dict) -> None:
        self.config = EDTConfig(model, "tiny", None, settings)
        init_seed(self.config["seed"], True)
        self.data = CrossDomainDataset(self.config)
        self.train, self.valid, self.test = data_preparation(self.config, self.data)
        init_seed(self.config["seed"], True)
        model_class = self.config.model_class
        network = model_class(self.config, self.train._dataset)
        self.trainer = trainer_class(model_class)(self.config, network)

    def fit(self, **arguments) -> Run:
        """Train."""
        self.trainer.fit(self.train, self.valid, verbose=False, **arguments)
        return self

    def result(self) -> tuple[dict, dict]:
        """Metrics of validation and test, and the parameters, of the best epoch."""
        self.trainer.load_best()
        metrics = {
            phase: dict(self.trainer.evaluate(loader, load_best_model=False))
            for phase, loader in (("valid", self.valid), ("test", self.test))
        }
        metrics["stages"] = {s: dict(v["valid"] or {}) for s, v in self.trainer.stages.items()}
        return metrics, {k: v.clone() for k, v in self.trainer.model.state_dict().items()}


@pytest.fixture
def run(small) -> Callable[..., Run]:
    """Make a run of a model: ``run("LLMEDT", epochs=1)``."""

    def make(model="LLMEDT", **changes) -> Run:
        return Run(model, small(model, **changes))

    return make


@pytest.fixture(scope="session")
def same_result() -> Callable[[tuple, tuple], None]:
    """Assert that two results are bit-identical."""

    def check(one: tuple, other: tuple) -> None:
        assert one[0] == other[0]
        assert one[1].keys() == other[1].keys()
        for name, value in one[1].items():
            assert torch.equal(value, other[1][name]), name

    return check
