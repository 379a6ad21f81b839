"""Small runs: settings that take a moment, and a run in pieces that a test can reach into."""

from __future__ import annotations

from recbole.data import data_preparation
from recbole.utils import init_seed

from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.trainer import trainer_class

SMALL = {
    "epochs": 1, "eval_args.mode": "uni5", "topk": [3], "valid_metric": "NDCG@3",
    "use_gpu": False, "show_progress": False, "state": "ERROR",
}  # fmt: skip
"""Keys that every model knows; those of further stages are at most ``epochs``."""

SIZES = {
    "hidden_size": 16, "embedding_size": 16, "mf_embedding_size": 8, "mlp_embedding_size": 8,
    "num_layers": 1, "n_negatives": 8,
}  # fmt: skip
"""Keys of which a model knows some."""


def small(model: str, **changes) -> dict:
    """Settings of a small run of a model."""
    known = EDTConfig(model, "tiny").known_keys()
    return {**SMALL, **{k: size for k, size in SIZES.items() if k in known}, **changes}


def arguments_of(**changes) -> list[str]:
    """Arguments of a small run on the command line."""
    keys = {**SMALL, "hidden_size": 16, **changes}
    return ["--dataset=tiny", *(f"--{key}={value}" for key, value in keys.items())]


class Run:
    """A run as ``run_recbole_edt`` makes it."""

    def __init__(self, model: str, settings: dict) -> None:
        self.config = EDTConfig(model, "tiny", None, settings)
        init_seed(self.config["seed"], True)
        self.data = CrossDomainDataset(self.config)
        self.train, self.valid, self.test = data_preparation(self.config, self.data)
        init_seed(self.config["seed"], True)
        model_class = self.config.model_class
        self.model = model_class(self.config, self.train._dataset)
        self.trainer = trainer_class(model_class)(self.config, self.model)

    def fit(self, **arguments) -> Run:
        """Train."""
        self.trainer.fit(self.train, self.valid, verbose=False, **arguments)
        return self

    def state(self) -> dict:
        """Copy of the parameters; RaCT's trainer makes other models."""
        return {name: value.clone() for name, value in self.trainer.model.state_dict().items()}

    def result(self, file=None) -> tuple[dict, dict]:
        """Metrics of validation and test, and the parameters, of the best epoch."""
        self.trainer.load_best(file)
        metrics = {
            phase: dict(self.trainer.evaluate(loader, load_best_model=False))
            for phase, loader in (("valid", self.valid), ("test", self.test))
        }
        metrics["stages"] = {s: dict(v["valid"] or {}) for s, v in self.trainer.stages.items()}
        return metrics, self.state()
