"""What the tests of all baselines share: models on the tiny shop, slow parts, small runs."""

import numpy as np
from running import small
from slow_reference import CONFIG, SEQUENCES, SHARED, TinyShop, build, domain_of, negative_of

from recbole_edt.model.baselines.c2dsr import C2DSR
from recbole_edt.model.baselines.llm4cdsr import LLM4CDSR
from recbole_edt.model.baselines.llmcdsr import LLMCDSR
from recbole_edt.model.baselines.llmesr import LLMESR
from recbole_edt.model.baselines.syncrec import SyNCRec
from recbole_edt.model.baselines.tricdr import TriCDR

BASELINES = {model.__name__: model for model in (C2DSR, TriCDR, SyNCRec, LLMESR, LLMCDSR, LLM4CDSR)}
CAUSAL = ("sasrec", "gru4rec")
ALL = (*CAUSAL, "bert4rec")
USERS = tuple(SEQUENCES)


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


def own_items(history: list[int], domain: int) -> list[int]:
    return [item for item in history if domain_of(item) == domain]


def loss_term(kind: str, scored, user: int, target: int) -> float:
    """Loss of one target, ``scored(item)`` being the scores of its position."""
    if kind == "bpr":
        return float(np.log1p(np.exp(scored(negative_of(user, target)) - scored(target))))
    rest = [n for n in SHARED[domain_of(target)] if n not in SEQUENCES[user]]
    logits = np.array([scored(item) for item in (target, *rest)])
    return float(np.log(np.exp(logits).sum()) - logits[0])


def settings_of(name: str, data_path, **changes) -> dict:
    """Keys of a small run of a baseline."""
    keys = {
        "data_path": str(data_path), "epochs": 2, "hidden_size": 8, "train_batch_size": 8,
        "n_negatives": 6, "learning_rate": 0.01, "threads": 1,
    }  # fmt: skip
    if name == "LLMCDSR":
        keys["meta_interval"] = 1
    return small(name, **{**keys, **changes})
