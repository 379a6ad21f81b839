"""Which values a setting takes: checked by one table before RecBole stumbles over them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from recbole_edt.data.candidates import sample_size
from recbole_edt.errors import ConfigError
from recbole_edt.evaluation.metrics import metric_names
from recbole_edt.settings import nearest

NESTED = ("eval_args", "train_neg_sample_args", "load_col")
"""Keys whose value is a mapping of which single entries can be set."""

Check = tuple[Callable[[Any], bool], str]
"""What a value has to be: a predicate, and the words for it."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _accepts(parse: Callable[[Any], Any], value: Any) -> bool:
    """Tell whether one of the package's own readers of a value takes it."""
    try:
        parse(value)
    except (ConfigError, AttributeError, TypeError, ValueError):
        return False
    return True


def _are_modes(value: Any) -> bool:
    return all(_accepts(sample_size, mode) for mode in _items(value))


def _read_valid_metric(value: str) -> None:
    name, at, k = value.partition("@")
    metric_names([name], [])
    if (at and int(k) < 1) or (not at and name.lower() != "mrr"):
        raise ConfigError(value)


_TYPES: dict[type, Check] = {
    bool: (lambda v: isinstance(v, bool), "True or False"),
    int: (_is_whole, "a whole number"),
    float: (_is_number, "a number"),
    str: (lambda v: isinstance(v, str), "text"),
}
"""What replaces a default of this type."""

_COUNT: Check = (lambda v: _is_whole(v) and v >= 1, "a whole number of at least 1")
_AMOUNT: Check = (lambda v: _is_whole(v) and v >= 0, "a whole number of at least 0")
_ABOVE_0: Check = (lambda v: _is_number(v) and v > 0, "a number above 0")
_FROM_0: Check = (lambda v: _is_number(v) and v >= 0, "a number of at least 0")
_SHARE: Check = (lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 to below 1")
_PATH: Check = (lambda v: v is None or _is_text(v), "a path")

_COUNTS = (
    "epochs", "train_batch_size", "eval_batch_size", "MAX_ITEM_LIST_LENGTH", "hidden_size",
    "inner_size", "embedding_size", "n_layers", "num_layers", "n_heads", "adapter_size",
    "n_negatives", "graph_layers", "n_cross_experts", "n_single_experts", "similar_users",
    "pretrain_epochs", "contrast_items", "n_recalled", "meta_batch_size", "meta_interval",
)  # fmt: skip
_AMOUNTS = ("seed", "candidate_seed", "finetune_epochs", "eval_step", "stopping_step", "worker")
_RATES = (
    "learning_rate", "finetune_learning_rate", "shadow_learning_rate", "meta_learning_rate",
    "align_temperature", "coarse_temperature", "gap_temperature", "regularisation_temperature",
    "contrast_temperature", "score_scale",
)  # fmt: skip
_WEIGHTS = (
    "weight_decay", "align_weight", "coarse_weight", "fine_weight", "fine_margin", "mim_weight",
    "gap_rate", "distill_weight", "regularisation_weight", "contrast_weight", "finetune_cache",
)  # fmt: skip
_SHARES = (
    "dropout", "item_dropout", "hidden_dropout_prob", "attn_dropout_prob", "dropout_prob",
    "gap_decay",
)  # fmt: skip

_CHECKS: dict[str, Check] = {
    **dict.fromkeys(_COUNTS, _COUNT),
    **dict.fromkeys(_AMOUNTS, _AMOUNT),
    **dict.fromkeys(_RATES, _ABOVE_0),
    **dict.fromkeys(_WEIGHTS, _FROM_0),
    **dict.fromkeys(_SHARES, _SHARE),
    "recall_share": (lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    **dict.fromkeys(("data_path", "checkpoint_dir"), (_is_text, "a path")),
    **dict.fromkeys(("result_file", "ranks_file", "pretrained_path"), _PATH),
    "time_limit": (lambda v: v is None or _ABOVE_0[0](v), _ABOVE_0[1]),
    "prediction_share": (lambda v: _is_number(v) and 0 < v <= 1, "a number above 0, up to 1"),
    "pair_weights": (
        lambda v: isinstance(v, list) and len(v) == 3 and all(map(_FROM_0[0], v)) and sum(v) > 0,
        "a list of three numbers of at least 0, not all 0",
    ),
    "threads": (lambda v: v is None or (_is_whole(v) and v >= 1), _COUNT[1]),
    "preset": (lambda v: v is None or _is_text(v), "the name of a property set"),
    "gpu_id": (
        lambda v: re.fullmatch(r"(\d+(,\d+)*)?", str(v).strip("()").replace(" ", "")) is not None,
        "the number of a GPU, or empty for none",
    ),
    "domains": (
        lambda v: v is None or (isinstance(v, list) and len(v) == 2 and all(map(_is_text, v))),
        "a list of two names",
    ),
    "topk": (
        lambda v: bool(_items(v)) and all(_is_whole(k) and k >= 1 for k in _items(v)),
        "a whole number of at least 1, or a list of them",
    ),
    "metrics": (
        lambda v: bool(_items(v)) and _accepts(lambda names: metric_names(_items(names), []), v),
        "a list of Hit, NDCG, MRR",
    ),
    "valid_metric": (lambda v: _accepts(_read_valid_metric, v), "such as NDCG@10, or MRR"),
    "eval_args.mode": (
        lambda v: _are_modes(list(v.values()) if isinstance(v, dict) else v),
        "full, uni100 or uni999 (uniN)",
    ),
    "report_modes": (lambda v: v is None or _are_modes(v), "a list of full, uni100, uni999 (uniN)"),
    "clip_grad_norm": (lambda v: v is None or isinstance(v, dict), "a mapping with max_norm"),
    "learner": (
        lambda v: v in ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
        "adam, adamw, sgd, adagrad, rmsprop or sparse_adam",
    ),
    "state": (
        lambda v: str(v).lower() in ("debug", "info", "warning", "error", "critical"),
        "debug, info, warning, error or critical",
    ),
}
"""Keys whose type alone does not say which values make sense."""

_FIXED_EVAL_ARGS = ("split", "order", "group_by")


def check_values(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse values that no run could use, before RecBole stumbles over them.

    Parameters
    ----------
    given : mapping
        What the user set.
    defaults : mapping
        What the property files say: a value is of its default's type, unless a check of its own
        says what the key takes.

    Raises
    ------
    ConfigError
        Naming the key, what it must be and what it is.
    """
    _check_eval_args(given.get("eval_args", {}), defaults["eval_args"])
    for key, value in given.items():
        _check_value(key, value, _CHECKS.get(key) or _TYPES.get(type(defaults.get(key))))
        if key in NESTED and value is not None and not isinstance(value, dict):
            raise ConfigError(f"{key} must be a mapping, not '{value}'")


def _check_eval_args(given: Any, defaults: Mapping[str, Any]) -> None:
    if not isinstance(given, dict):
        raise ConfigError(f"eval_args must be a mapping, not '{given}'")
    for key, value in given.items():
        if key in _FIXED_EVAL_ARGS and value != defaults[key]:
            raise ConfigError(f"eval_args.{key} is fixed by the protocol: {defaults[key]}")
        if key not in defaults:
            raise ConfigError(f"unknown key 'eval_args.{key}'{nearest(str(key), defaults)}")
    if "mode" in given:
        _check_value("eval_args.mode", given["mode"], _CHECKS["eval_args.mode"])


def _check_value(key: str, value: Any, check: Check | None) -> None:
    if check is not None and not check[0](value):
        raise ConfigError(f"{key} must be {check[1]}, not '{value}'")
