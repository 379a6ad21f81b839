"""Settings of a run, whatever its model; the model's own keys are in its class' ``settings``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from recbole_edt.errors import ConfigError
from recbole_edt.model.settings import StoppingStep
from recbole_edt.settings import (
    Amount,
    Count,
    Name,
    NonNegative,
    Positive,
    Probability,
    Settings,
    help_text,
    parse_arguments,
)


def _must_be(words: str, accepts: Callable[[Any], Any]) -> AfterValidator:
    """Refuse values for which a function is false or raises."""

    def check(value: Any) -> Any:
        with suppress(ConfigError, AttributeError, TypeError, ValueError):
            if accepts(value):
                return value
        raise ValueError(words)

    return AfterValidator(check)


def _fixed(expected: Any) -> AfterValidator:
    return _must_be(f"{expected} (fixed by the protocol)", lambda value: value == expected)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _are_modes(value: Any) -> bool:
    from recbole_edt.data.candidates import sample_size

    modes = _listed(list(value.values()) if isinstance(value, dict) else value)
    return bool([sample_size(mode) for mode in modes])


def _are_metrics(value: Any) -> bool:
    from recbole_edt.evaluation.metrics import metric_names

    return bool(_listed(value) and metric_names(_listed(value), [1]))


def _is_valid_metric(value: str) -> bool:
    name, at, k = value.partition("@")
    return _are_metrics(name) and (int(k) >= 1 if at else name.lower() == "mrr")


def _are_counts(value: Any) -> bool:
    return bool(_listed(value)) and all(type(k) is int and k >= 1 for k in _listed(value))


def _are_gpus(value: Any) -> bool:
    return re.fullmatch(r"\(?(\d+(, ?\d+)*)?\)?", str(value)) is not None


_LEVELS = ("debug", "info", "warning", "error", "critical")

Modes = Annotated[Any, _must_be("full, uni100 or uni999 (uniN)", _are_modes)]
Metrics = Annotated[Any, _must_be("a list of Hit, NDCG, MRR or registered ones", _are_metrics)]
Metric = Annotated[Any, _must_be("such as NDCG@10, or MRR", _is_valid_metric)]
Counts = Annotated[Any, _must_be("a whole number of at least 1, or a list of them", _are_counts)]
Gpus = Annotated[Any, _must_be("the number of a GPU, or empty for none", _are_gpus)]
Level = Annotated[Any, _must_be(", ".join(_LEVELS), lambda level: level.lower() in _LEVELS)]
Pair = Annotated[list[Name], _must_be("a list of two names", lambda names: len(names) == 2)]


class EvalSettings(Settings):
    """``eval_args``: of RecBole's four parts the protocol leaves the mode open."""

    split: Annotated[Any, _fixed({"LS": "valid_and_test"})] = {"LS": "valid_and_test"}
    order: Annotated[Any, _fixed("TO")] = "TO"
    group_by: Annotated[Any, _fixed("user")] = "user"
    mode: Modes = Field(default="uni100", description="candidates: full, uni100 or uni999 (uniN)")


class RunSettings(Settings):
    """Keys of every run: those of ``properties/overall.yaml``, and RecBole's with a range."""

    # Data
    data_path: Name = Field("dataset/", description="folder that holds the dataset's folder")
    load_col: dict | None = {
        "inter": ["user_id", "item_id", "timestamp", "position", "augmented"],
        "item": ["item_id", "domain", "generated"],
        "user": ["user_id"],
    }
    domains: Pair | None = Field(None, description="names of domain A and B; else alphabetical")
    augmentation: bool = Field(False, description="train on inserted rows too")
    augmented_histories: bool = Field(True, description="inserted rows in histories at evaluation")
    MAX_ITEM_LIST_LENGTH: Count = Field(50, description="longest sequence")
    filter_inter_by_user_or_item: bool = False

    # Evaluation
    eval_args: EvalSettings = Field(default_factory=EvalSettings)
    report_modes: Modes | None = Field(None, description="further modes to test the model under")
    candidate_seed: Amount = Field(42, description="draws the candidates, for all models alike")
    metrics: Metrics = Field(["Hit", "NDCG"], description="metrics; mrr is always added")
    topk: Counts = Field([10], description="lengths of the lists that metrics look at")
    valid_metric: Metric = Field("NDCG@10", description="decides which epoch is the best")
    eval_batch_size: Count = 1024
    repeatable: Annotated[bool, _fixed(True)] = True

    # Training
    seed: Amount = Field(42, description="draws weights, batches and negatives")
    epochs: Count = Field(200, description="epochs at most")
    stopping_step: StoppingStep = 10
    eval_step: Amount = 1
    train_batch_size: Count = Field(512, description="sequences of a batch")
    learner: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"] = "adam"
    learning_rate: Positive = Field(0.001, description="learning rate")
    weight_decay: NonNegative = 0.0
    weight_average: Probability = Field(0.0, description="decay of averaged weights; 0 = none")
    clip_grad_norm: dict | None = None
    train_neg_sample_args: dict | None = None
    reproducibility: bool = True
    time_limit: Positive | None = Field(None, description="seconds after which no epoch begins")
    resume: bool = Field(False, description="continue the same run after its last complete epoch")
    pretrained_path: Name | None = Field(None, description="stage 1's model, for LLMEDTFinetune")
    preset: Name | None = Field(None, description="a configuration of the model, such as paper")

    # Files and machine
    checkpoint_dir: Name = Field("saved", description="where checkpoints are written")
    result_file: Name | None = Field(None, description="where to write the results (JSON)")
    ranks_file: Name | None = Field(None, description="where to write every target's rank (.npz)")
    state: Level = Field("INFO", description="least level of messages that are logged")
    use_gpu: bool = Field(True, description="use a GPU where there is one")
    gpu_id: Gpus = "0"
    threads: Count | None = Field(None, description="compute threads; by default the idle cores")
    fast_kernels: Literal["auto", "off"] = Field("auto", description="off: plain torch alone")
    worker: Amount = 0
    process_timeout: Count = Field(1800, description="seconds to wait for another process")


class RunArguments(Settings):
    """What the command needs by name; all other arguments are keys of the run."""

    model_config = ConfigDict(extra="allow")

    model: Name
    dataset: Name
    config_files: str = ""


def help_of_run(arguments: Sequence[str] = ()) -> str:
    """Help of ``run``; with ``--model=NAME`` among the arguments, of that model's keys."""
    given = [argument for argument in arguments if argument not in ("--help", "-h")]
    name = parse_arguments(given).get("model")
    usage = "run_recbole_edt.py --model=MODEL --dataset=DATASET [--key=value ...]"
    if isinstance(name, str):
        from recbole_edt.registry import find_model, is_plugin_model

        model: Any = find_model(name)
        if not is_plugin_model(model):
            raise ConfigError(f"the keys of {name} are RecBole's: see its documentation")
        about = f"Keys of {name}, besides those of every run (run --help)."
        return help_text(usage.replace("MODEL", name, 1), about, model.settings)
    about = (
        "Train a model and test it under the leak-free protocol. MODEL is a model of the plugin or "
        "a sequential one of RecBole, DATASET a folder in dataset/, dataset_atomic/ or --data_path."
    )
    after = """\
Any other key of RecBole, and the model's own: run --model=MODEL --help
  --config_files="a.yaml b.yaml"   settings from files; those of the command line win

Several processes train one model to the same result:
  torchrun --nproc_per_node=2 run_recbole_edt.py --model=LLMEDT --dataset=cloth_sport
"""
    return help_text(usage, about, RunSettings, after)
