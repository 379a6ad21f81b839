"""What the tests of all rivals share: models on the tiny shop, slow parts, small runs."""

import numpy as np
import torch
from recbole.utils import init_seed
from slow_reference import (
    CONFIG,
    SEQUENCES,
    SHARED,
    TinyShop,
    array,
    build,
    domain_of,
    negative_of,
)

from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.model.baselines.c2dsr import C2DSR
from recbole_edt.model.baselines.llm4cdsr import LLM4CDSR
from recbole_edt.model.baselines.llmcdsr import LLMCDSR
from recbole_edt.model.baselines.llmesr import LLMESR
from recbole_edt.model.baselines.syncrec import SyNCRec
from recbole_edt.model.baselines.tricdr import TriCDR
from recbole_edt.quick_start import make_loaders
from recbole_edt.trainer import trainer_class

RIVALS = {model.__name__: model for model in (C2DSR, TriCDR, SyNCRec, LLMESR, LLMCDSR, LLM4CDSR)}
CAUSAL = ("sasrec", "gru4rec")
ALL = (*CAUSAL, "bert4rec")
USERS = tuple(SEQUENCES)

# -- models on the tiny shop ----------------------------------------------------------------------


def config_of(model_class, **options) -> dict:
    """Configuration on the tiny shop: the shared small sizes, the model's own defaults, options."""
    fields = model_class.settings.model_fields
    own = {key: field.default for key, field in fields.items() if key not in SIZES}
    return {**CONFIG, **own, **options}


SIZES = {"hidden_size", "inner_size", "n_negatives", "dropout", "item_dropout", "loss",
         "attention_start", "align_weight", "align_temperature", "train_batch_size"}  # fmt: skip
"""Keys that the tiny shop sets for all models."""


def make(model_class, shop: TinyShop | None = None, **options):
    """Make a model in float64, whose parameters are all random and far from their start."""
    config = config_of(model_class, **options)
    return build(model_class, shop=shop, **{k: v for k, v in config.items() if k != "seed"})


def loss_of(model, batch) -> float:
    """Loss without dropout."""
    return model.eval().calculate_loss(batch).item()


# -- slow parts -----------------------------------------------------------------------------------


def own_items(history: list[int], domain: int) -> list[int]:
    return [item for item in history if domain_of(item) == domain]


def linear(layer, vector: np.ndarray) -> np.ndarray:
    return array(layer.weight) @ vector + array(layer.bias)


def layer_norm(norm, vector: np.ndarray) -> np.ndarray:
    centred = vector - vector.mean()
    scaled = centred / np.sqrt((centred**2).mean() + norm.eps)
    return scaled * array(norm.weight) + array(norm.bias)


def states_of(encoder, vectors) -> np.ndarray:
    """Backbone states of one unpadded sequence of vectors, [n, d] -> [n, d]."""
    inputs = torch.from_numpy(np.stack(vectors))[None]
    valid = torch.ones(1, len(vectors), dtype=torch.bool)
    return array(encoder.backbone(inputs, encoder.positions.weight[: len(vectors)], valid))[0]


def loss_term(kind: str, scored, user: int, target: int) -> float:
    """Loss of one target, ``scored(item)`` being the scores of its position."""
    if kind == "bpr":
        return float(np.log1p(np.exp(scored(negative_of(user, target)) - scored(target))))
    rest = [n for n in SHARED[domain_of(target)] if n not in SEQUENCES[user]]
    logits = np.array([scored(item) for item in (target, *rest)])
    return float(np.log(np.exp(logits).sum()) - logits[0])


def check_scores(model, rows, score_of) -> None:
    """Hold all ways to score against ``score_of(history, item)``, user by user."""
    with torch.no_grad():
        everything = array(model.full_sort_predict(rows))
        for row, history in enumerate(SEQUENCES.values()):
            expected = [score_of(history, item) for item in range(1, everything.shape[1])]
            assert np.allclose(everything[row, 1:], expected)
        one = {**rows, "item_id": torch.tensor([3, 9, 6, 1, 12])}
        assert np.allclose(array(model.predict(one)), everything[range(5), one["item_id"]])
        candidates = torch.tensor([[1, 4, 3], [6, 12, 7], [12, 11, 6], [5, 5, 1], [8, 9, 10]])
        some = array(model.candidate_scores(rows, candidates))
        assert np.allclose(some, np.take_along_axis(everything, candidates.numpy(), 1))


# -- small runs -----------------------------------------------------------------------------------

SMALL = {
    "epochs": 2, "hidden_size": 8, "train_batch_size": 8, "n_negatives": 6, "learning_rate": 0.01,
    "eval_args.mode": "uni5", "topk": [3], "valid_metric": "NDCG@3", "use_gpu": False,
    "show_progress": False, "state": "ERROR", "threads": 1,
}  # fmt: skip
STAGES = {"TriCDR": {"finetune_epochs": 2}, "LLMCDSR": {"pretrain_epochs": 2, "meta_interval": 1}}


def settings_of(name: str, data_path, **changes) -> dict:
    """Keys of a small run of a rival."""
    return {**SMALL, **STAGES.get(name, {}), "data_path": str(data_path), **changes}


class Run:
    """A run as ``run_recbole_edt`` makes it, in pieces that a test can reach into."""

    def __init__(self, name: str, data_path, **changes) -> None:
        self.config = EDTConfig(name, "tiny", None, settings_of(name, data_path, **changes))
        self.data = CrossDomainDataset(self.config)
        self.train, self.valid, self.test = make_loaders(self.config, self.data)
        init_seed(self.config["seed"], True)
        self.model = RIVALS[name](self.config, self.train._dataset)
        self.trainer = trainer_class(RIVALS[name])(self.config, self.model)

    def fit(self) -> "Run":
        self.trainer.fit(self.train, self.valid, verbose=False)
        return self

    def result(self) -> tuple[list, dict]:
        """Metrics of validation and test, and the parameters, as they are."""
        loaders = (self.valid, self.test)
        metrics = [dict(self.trainer.evaluate(x, load_best_model=False)) for x in loaders]
        return metrics, {name: value.clone() for name, value in self.model.state_dict().items()}
