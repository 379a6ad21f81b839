"""Settings of a run, whatever its model; the model's own keys are in its class' ``settings``."""

from __future__ import annotations

import re
from codecs import lookup
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from recbole_edt.errors import ConfigError, DependencyError
from recbole_edt.io.files import read_yaml
from recbole_edt.io.paths import properties_dir
from recbole_edt.model.settings import StoppingStep
from recbole_edt.settings import (
    Amount,
    Count,
    Name,
    NonNegative,
    Positive,
    Probability,
    Settings,
    fixed,
    help_text,
    is_interval,
    must_be,
    parse_arguments,
)

_PROTOCOL = "fixed by the protocol"
_CONTRACT = "fixed by the data contract"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _are_modes(value: Any) -> bool:
    from recbole_edt.data.candidates import sample_size

    modes = _listed(list(value.values()) if isinstance(value, dict) else value)
    return bool([sample_size(mode) for mode in modes])


def _are_metrics(value: Any) -> bool:
    return bool(_listed(value)) and all(type(name) is str for name in _listed(value))


def _are_counts(value: Any) -> bool:
    return bool(_listed(value)) and all(type(k) is int and k >= 1 for k in _listed(value))


def _are_gpus(value: Any) -> bool:
    return re.fullmatch(r"\(?(\d+(, ?\d+)*)?\)?", str(value)) is not None


def _are_columns(value: Any) -> bool:
    lists = value.values() if value else []
    return all(part == "*" or part == [str(name) for name in part] for part in lists)


_LEVELS = ("debug", "info", "warning", "error", "critical")

Modes = Annotated[Any, must_be("full, uni100 or uni999 (uniN)", _are_modes)]
ReportModes = Annotated[
    Any,
    must_be(
        "uni100 or uni999 (uniN), full, or [] for none",
        lambda modes: modes is None or modes == [] or _are_modes(modes),
    ),
]
Metrics = Annotated[Any, must_be("a list of metrics, such as [Hit, NDCG]", _are_metrics)]
Counts = Annotated[Any, must_be("a whole number of at least 1, or a list of them", _are_counts)]
Gpus = Annotated[Any, must_be("the number of a GPU, or empty for none", _are_gpus)]
Level = Annotated[Any, must_be(", ".join(_LEVELS), lambda level: level.lower() in _LEVELS)]
Interval = Annotated[
    Any, must_be("an interval such as [5,inf)", lambda ends: ends is None or is_interval(ends))
]
Columns = Annotated[
    dict | None, must_be("a mapping of inter, item or user to lists of columns", _are_columns)
]
Pair = Annotated[list[Name], must_be("a list of two names", lambda names: len(names) == 2)]


class EvalSettings(Settings):
    """``eval_args``: of RecBole's four parts the protocol leaves the mode open."""

    split: Annotated[Any, fixed({"LS": "valid_and_test"}, _PROTOCOL)] = {"LS": "valid_and_test"}
    order: Annotated[Any, fixed("TO", _PROTOCOL)] = "TO"
    group_by: Annotated[Any, fixed("user", _PROTOCOL)] = "user"
    mode: Modes = Field(
        default="full",
        description="candidates: all items of the domain (full) or N sampled ones (uniN)",
    )


class ClippingSettings(Settings):
    """``clip_grad_norm``, as torch takes it."""

    max_norm: Positive = Field(description="maximum norm of all gradients together")
    norm_type: float | Literal["inf"] = Field(
        2.0, description="order of the norm, as in torch: 2, inf, ..."
    )
    error_if_nonfinite: bool = Field(
        False, description="stop with an error if the norm is NaN or infinite"
    )
    foreach: bool | None = Field(None, description="all gradients in one operation, if faster")


class NegativeSettings(Settings):
    """``train_neg_sample_args`` of RecBole's models."""

    distribution: Literal["uniform", "popularity", "none"] = Field(
        "uniform", description="distribution of negatives"
    )
    sample_num: Count | Literal["none"] = Field(1, description="negatives per target")
    alpha: float | Literal["none"] = Field(1.0, description="exponent of the popularity")
    dynamic: bool = Field(False, description="take the negatives with the highest scores")
    candidate_num: Amount = Field(0, description="if dynamic: candidates for each negative")


class RunSettings(Settings):
    """Keys of every run: those of ``properties/overall.yaml``, and RecBole's with a range."""

    # Data
    data_path: Name = Field("dataset/", description="folder that holds DATASET/")
    load_col: Columns = {
        "inter": ["user_id", "item_id", "timestamp", "position", "augmented"],
        "item": ["item_id", "domain", "generated"],
        "user": ["user_id"],
    }
    domains: Pair | None = Field(
        None, description="names of domains A and B (default: alphabetical)"
    )
    augmentation: bool = Field(False, description="train on inserted rows too")
    augmented_histories: bool = Field(True, description="inserted rows in histories at evaluation")
    MAX_ITEM_LIST_LENGTH: Count = Field(50, description="longest sequence")

    # Raw rows, before the split; as in RecBole
    rm_dup_inter: Literal["first", "last"] | None = Field(
        None, description="keep the first or last of a user's rows of an item"
    )
    val_interval: dict[str, Any] | None = Field(
        None, description="column -> interval of numbers, or list of names, to keep"
    )
    filter_inter_by_user_or_item: bool | None = Field(
        None, description="True: drop the rows of users that .user does not list"
    )
    user_inter_num_interval: Interval = Field("[0,inf)", description="keep users with so many rows")
    item_inter_num_interval: Interval = Field("[0,inf)", description="keep items with so many rows")

    # Columns; as in RecBole
    unload_col: Columns = None
    unused_col: Columns = None
    additional_feat_suffix: str | list[str] | None = None
    alias_of_user_id: list[str] | None = None
    alias_of_item_id: list[str] | None = None
    numerical_features: list[str] = []
    normalize_field: list[str] | None = None
    normalize_all: bool | None = None
    discretization: dict | None = None
    preload_weight: dict | None = None
    seq_len: dict[str, Count] | None = None

    # RecBole's, of which one value alone has a meaning here
    USER_ID_FIELD: Annotated[str, fixed("user_id", _CONTRACT)] = "user_id"
    ITEM_ID_FIELD: Annotated[str, fixed("item_id", _CONTRACT)] = "item_id"
    TIME_FIELD: Annotated[str, fixed("timestamp", _CONTRACT)] = "timestamp"
    field_separator: Annotated[str, must_be("a tab", lambda value: value == "\t")] = "\t"
    encoding: Annotated[
        Any, must_be("utf-8", lambda name: name is None or lookup(name).name == "utf-8")
    ] = None
    threshold: Annotated[Any, fixed(None, "all rows are positive; val_interval drops rows")] = None
    benchmark_filename: Annotated[Any, fixed(None, _PROTOCOL)] = None

    # Evaluation
    eval_args: EvalSettings = Field(default_factory=EvalSettings)
    report_modes: ReportModes = Field(["uni100"], description="further modes to test under")
    candidate_seed: Amount = Field(
        42, description="seed of sampled candidates, for all models alike"
    )
    metrics: Metrics = Field(["Hit", "NDCG"], description="RecBole's metrics; mrr is always added")
    topk: Counts = Field([10], description="k of the metrics: lengths of the ranked lists")
    valid_metric: Name = Field(
        "NDCG@10", description="validation metric that chooses the best epoch"
    )
    tail_ratio: Positive | None = Field(
        None,
        description="TailPercentage: share of items in the tail; above 1: most rows of a tail item",
    )
    history_weight: Literal["auto"] | NonNegative = Field(
        0.0,
        description="weight of the history term in scores; auto (LLMEDT): chosen on validation",
    )
    eval_batch_size: Count = 1024
    repeatable: bool = True  # fixed by the kind of the model

    # Training
    seed: Amount = Field(
        42, le=2**32 - 1, description="seed of initial weights, batches and negatives"
    )
    epochs: Count = Field(
        200, description="maximum number of epochs, also of stage 2 if its own are not given"
    )
    stopping_step: StoppingStep = 10
    eval_step: Amount = Field(1, description="validate after every so many epochs; 0: never")
    train_batch_size: Count = Field(512, description="sequences of a batch")
    learner: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop"] = "adam"
    learning_rate: Positive = Field(0.001, description="learning rate")
    weight_decay: NonNegative = 0.0
    weight_average: Probability = Field(
        0.0, description="decay of the moving average of weights; 0: none"
    )
    clip_grad_norm: ClippingSettings | None = None
    train_neg_sample_args: NegativeSettings | None = None
    reproducibility: bool = True
    time_limit: Positive | None = Field(
        None,
        description="maximum training time of a stage in seconds, checked after each validation",
    )
    resume: bool = Field(False, description="continue the same run after its last validated epoch")
    start_from: Name | None = Field(
        None,
        description="checkpoint of the same model to train on from, on data that may have grown",
    )
    pretrained_path: Name | None = Field(
        None, description="checkpoint of stage 1, for LLMEDTFinetune"
    )
    preset: Name | None = Field(
        None, description="a configuration of the model: paper; for LLMEDT also best"
    )

    # Files and machine
    checkpoint_dir: Name = Field("saved", description="folder of checkpoints")
    result_file: Name | None = Field(None, description="file for the results (JSON)")
    ranks_file: Name | None = Field(None, description="file for the rank of every target (.npz)")
    state: Level = Field("INFO", description="lowest level of logged messages")
    use_gpu: bool = Field(True, description="use a GPU where there is one")
    gpu_id: Gpus = "0"
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="cuda: a GPU or an error")
    threads: Count | None = Field(None, description="compute threads (default: the idle cores)")
    fast_kernels: Literal["auto", "off"] = Field("auto", description="off: plain torch only")
    worker: Amount = 0
    process_timeout: Count = Field(1800, description="seconds to wait for another process")


class RunArguments(Settings):
    """What the command needs by name; all other arguments are keys of the run."""

    model_config = ConfigDict(extra="allow")

    model: Name
    dataset: Name
    config_files: str = ""

    @model_validator(mode="after")
    def _starts_no_processes(self) -> RunArguments:
        extra = self.model_extra or {}
        for key in ("nproc", "world_size"):
            if extra.get(key) not in (None, 1, -1):
                raise ValueError(
                    f"{key} starts no processes here: torchrun --nproc_per_node={extra[key]} "
                    "run_recbole_edt.py --model=... does"
                )
        if "local_rank" in extra:
            raise ValueError(
                "torchrun numbers the processes, by the environment: torchrun --nproc_per_node=2 "
                "run_recbole_edt.py --model=... in place of torch.distributed.launch"
            )
        return self


def _help_of_model(name: str, usage: str) -> str:
    """Help from a model's settings; from its property files if it has none, as RecBole's models."""
    from recbole_edt.registry import find_model, own_property_file, properties_of

    model: Any = find_model(name)
    ours = properties_dir() / "model" / f"{properties_of(model)[0]}.yaml"
    about = f"Keys of {name}, besides those of every run (run --help)."
    if hasattr(model, "settings"):
        written = read_yaml(ours) if ours.is_file() else {}
        others = [f"--{k}={written[k]}" for k in written if k not in model.settings.model_fields]
        after = f"Its defaults of keys of every run: {' '.join(others)}\n" if others else ""
        return help_text(usage, about, model.settings, after)
    recbole: Any = find_spec("recbole")
    folder = Path(recbole.origin).parent / "properties" / "model"
    bases = [file for base in model.__mro__ if (file := folder / f"{base.__name__}.yaml").is_file()]
    files = [*bases[:1], *([ours] if ours.is_file() else []), own_property_file(model)]
    texts = [file.read_text("utf-8").strip() for file in files if file]
    if not texts:
        raise ConfigError(f"{name} declares no keys: see the documentation of its author")
    return "\n\n".join(
        [f"usage: {usage}", f"{about} From property files; later ones win.", *texts, ""]
    )


def help_of_run(arguments: Sequence[str] = ()) -> str:
    """Help of ``run``; with ``--model=NAME`` among the arguments, of that model's keys."""
    given = [argument for argument in arguments if argument not in ("--help", "-h")]
    name = parse_arguments(given).get("model")
    usage = "recbole-edt run --model=MODEL --dataset=DATASET [--key=value ...]"
    without = ""
    if isinstance(name, str):
        try:
            return _help_of_model(name, usage.replace("MODEL", name, 1))
        except DependencyError as error:
            without = f"The keys of {name} alone are not shown: {error}\n\n"
    about = (
        "Train a model and test it under the leak-free protocol. MODEL is a model of the plugin, a "
        "sequential or general one of RecBole, or package.module:Class, one of your own; DATASET a "
        "folder in dataset/, dataset_atomic/ or --data_path."
    )
    after = """\
Any other key of RecBole, and the model's own: run --model=MODEL --help
  --config_files="a.yaml b.yaml"   settings from files; those of the command line win

Several processes train one model to the same result:
  torchrun --nproc_per_node=2 run_recbole_edt.py --model=LLMEDT --dataset=cloth_sport
"""
    return help_text(usage, about, RunSettings, without + after)
