"""Configuration: RecBole's own, with the plugin's property files, presets and checks on top."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import yaml
from pydantic import Field
from recbole.config import Config
from recbole.utils import ModelType

from recbole_edt.errors import ConfigError, as_config_error
from recbole_edt.io.atomic import read_columns, read_header
from recbole_edt.io.paths import find_data_root, properties_dir
from recbole_edt.registry import (
    builtin_name,
    code_of,
    find_model,
    is_users_own,
    own_property_file,
    preset_file,
    properties_of,
)
from recbole_edt.run_settings import RunSettings
from recbole_edt.settings import (
    Amount,
    NonNegative,
    Share,
    check_value,
    expand_home,
    nearest,
    nest,
    validate,
    yaml_fault,
)

# of several processes, which RecBole's own command starts
_OF_PROCESSES = {"nproc", "world_size", "ip", "port", "offset", "local_rank"}

NESTED = ("eval_args", "train_neg_sample_args", "load_col")
"""Keys of which a file or the command line may change parts."""

# keys that RecBole reads and has no default for
_WITHOUT_DEFAULT = {
    "model", "dataset", "config_files", *_OF_PROCESSES, "encoding", "selected_features",
    "pooling_mode", "single_spec",
}  # fmt: skip

# stages of RecBole's models that are trained in several runs
_FROM_A_FILE = ("critic_pretrain", "finetune", "after_pretrain")

# values of `transform` -> the share of a sequence that each needs
_SHARES = {"mask_itemseq": "mask_ratio", "crop_itemseq": "eta", "reorder_itemseq": "beta"}

_OF_THE_MODEL = {"MODEL_TYPE", "MODEL_INPUT_TYPE"}  # its class says them

# keys that are read when an epoch ends, or a run
_READ_LATER = {
    *_WITHOUT_DEFAULT, "preset", "loss_decimal_place", "time_limit", "weight_average"
} - {*_OF_PROCESSES, "selected_features", "pooling_mode"}  # fmt: skip


def lay_properties(config: Config) -> None:
    """Lay the plugin's defaults over RecBole's internal ones.

    They are, each over the one before: ``overall.yaml``, ``general.yaml`` for general models, the
    model's property file, what a subclass changes or adds in its ``settings``, the property file
    beside the module of a user's own class, the preset, and the file of the dataset. The latter may
    hold a section ``per_model: {<M>: {...}}`` for single models, which a preset ignores.

    Raises
    ------
    ConfigError
        If the model has no such preset.
    """
    model, internal = config.model_class, config.internal_config_dict
    preset = config.external_config_dict.get("preset")
    root, (name, owner) = properties_dir(), properties_of(model)

    def lay(file: Path) -> bool:
        if file.is_file():
            config._update_internal_config_dict(str(file))
        return file.is_file()

    lay(root / "overall.yaml")
    if model.type != ModelType.SEQUENTIAL:
        lay(root / "general.yaml")
    inherited, own = defaults(owner), defaults(model)
    internal.update(inherited)
    lay(root / "model" / f"{name}.yaml")
    internal.update({k: v for k, v in own.items() if k not in inherited or inherited[k] != v})
    if beside := own_property_file(model):
        lay(beside)
    if preset and not lay(preset_file(model, preset)):
        files = (root / "model").glob(f"{name}-*.yaml")
        known = ", ".join(sorted(file.stem.removeprefix(f"{name}-") for file in files))
        raise ConfigError(f"{name} has no preset '{preset}' (it has: {known or 'none'})")
    lay(root / "dataset" / f"{config.dataset}.yaml")
    per_model = internal.pop("per_model", None) or {}
    if not preset:
        for model_name in dict.fromkeys((name, model.__name__)):
            internal.update(per_model.get(model_name, {}))
    internal["data_path"] = find_data_root(config.dataset)


def lay_data(config: Config) -> None:
    """Lay over RecBole's defaults how its own pipeline reads data of this plugin's contract.

    Such data are found where the plugin finds them, ordered by ``position`` if they have it, and
    without the rows that preprocessing inserted, which RecBole's split would take for interactions.
    Nothing is laid over what the user says about columns.
    """
    internal, given = config.internal_config_dict, config.external_config_dict
    if not Path(internal["data_path"], config.dataset).is_dir():
        internal["data_path"] = find_data_root(config.dataset)
    folder = Path(given.get("data_path", internal["data_path"]), config.dataset)
    columns, of_items = (read_header(folder / f"{config.dataset}.{s}") for s in ("inter", "item"))
    by_user = given.keys() & {"load_col", "unload_col", "TIME_FIELD", "val_interval"}
    if by_user or "timestamp:float" not in columns or "domain:token" not in of_items:
        return
    internal["load_col"] = {"inter": [name.partition(":")[0] for name in columns]}
    if "position:float" in columns:
        internal["TIME_FIELD"] = "position"
    if "augmented:token" in columns:
        internal["val_interval"] = {"augmented": ["0"]}


def defaults(model: Any) -> dict[str, Any]:
    """Key -> default of a model's settings; RecBole's models have none."""
    settings = getattr(model, "settings", None)
    return {
        key: field.get_default(call_default_factory=True, validated_data={})
        for key, field in (settings.model_fields if settings else {}).items()
        if not field.is_required()
    }


class _Final(dict):
    """Settings that note which keys are read: RecBole's ``Config`` has no ``get`` of its own."""

    def __init__(self, settings: Mapping[str, Any], read: set[str]) -> None:
        super().__init__(settings)
        self._read = read

    def __getitem__(self, key):
        self._read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self._read.add(key)
        return super().get(key, default)


class EDTConfig(Config):
    """RecBole's configuration for a run of this plugin, for its own models and the built-in ones.

    The arguments are those of RecBole's ``Config``; nested keys may be dotted (``eval_args.mode``),
    and ``model`` is what :func:`~recbole_edt.registry.find_model` takes. Nothing is read from the
    command line of the process.

    Raises
    ------
    ConfigError
        If a name, a key, a value or a file is invalid.
    """

    final_config_dict: dict[str, Any]

    def __init__(
        self,
        model: str | type,
        dataset: str,
        config_file_list: Sequence[str] | None = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        self._read: set[str] = set()
        overrides, files = nest(config_dict or {}), config_file_list or []
        if isinstance(files, (str, os.PathLike)):
            files = [files]
        if overrides.get("config_files"):
            raise ConfigError("config_files: in Python, config_file_list names files of settings")
        found = find_model(model)
        with as_config_error("configuration"):
            super().__init__(found, dataset, files, overrides)
        self.final_config_dict = _Final(self.final_config_dict, self._read)

    def _load_config_files(self, file_list):
        return read_files(file_list)

    def _merge_external_config_dict(self):
        self.external_config_dict = _merge(self.file_config_dict, self.variable_config_dict)

    def _load_cmd_line(self):
        return {}

    def _convert_config_dict(self, config_dict):
        return config_dict

    def _get_model_and_dataset(self, model, dataset):
        self.model, self.model_class, self.dataset = super()._get_model_and_dataset(model, dataset)
        return self.model, self.model_class, self.dataset

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(builtin_name(model_class), model_class, dataset)

    @property
    def takes_any_key(self) -> bool:
        """Whether the model is a user's own and declares no ``settings``."""
        return is_users_own(self.model_class) and not hasattr(self.model_class, "settings")

    def refuse_unread(self) -> None:
        """Raise a ConfigError for a key that nothing declares and nothing has read by now."""
        known = self.known_keys()
        for key in sorted(set(self.external_config_dict) - known - self._read):
            raise ConfigError(
                f"{self.model} does not read the key '{key}'{nearest(key, known | self._read)} (a "
                "model reads its keys when it is made, or declares them in its `settings`)"
            )

    def known_keys(self) -> set[str]:
        """Keys that a run of this model declares."""
        return known_keys(self)

    def unread_keys(self) -> list[str]:
        """Keys that were given and that nothing has asked for; before a training, after its setup.

        The model, the data or other keys do without them.
        """
        later = {key for stage in getattr(self.model_class, "stages", ()) for key in stage}
        return [
            key for key in self.external_config_dict if key not in self._read | later | _READ_LATER
        ]

    def __getstate__(self):
        return {**vars(self), "final_config_dict": dict(self.final_config_dict)}

    def __getitem__(self, item):
        self._read.add(item)
        return super().__getitem__(item)

    def __getattr__(self, item):
        value = super().__getattr__(item)
        self._read.add(item)
        return value

    def _get_final_config_dict(self):
        known = self.known_keys()
        for key in self.external_config_dict:
            if key not in known and not self.takes_any_key:
                raise ConfigError(f"unknown key '{key}'{nearest(str(key), known)}")
        return final_settings(self)

    def _set_default_parameters(self):
        if not hasattr(self.model_class, "input_type"):  # then its loss_type says it
            if "loss_type" not in self.final_config_dict:
                raise ConfigError(
                    f"{self.model} says neither by an input_type nor by its keys whether it trains "
                    "on negatives: give loss_type, CE for none or BPR (--loss_type=CE)"
                )
            check_value(Literal["CE", "BPR"], "loss_type", self["loss_type"])
        super()._set_default_parameters()
        bigger = self.final_config_dict["valid_metric_bigger"]
        if self.external_config_dict.get("valid_metric_bigger", bigger) != bigger:
            metric = self["valid_metric"]
            raise ConfigError(f"valid_metric_bigger must be {bigger}, as {metric} says")
        if code := code_of(self.model_class):
            self.final_config_dict["model_code"] = code  # tells runs of an edited class apart


def read_files(files: Sequence[str]) -> dict[str, Any]:
    """Settings of configuration files, later ones over earlier; dotted keys are nested.

    Raises
    ------
    ConfigError
        If a file cannot be read, or holds no settings.
    """
    merged: dict[str, Any] = {}
    loader = Config._build_yaml_loader(None)
    for file in files:
        try:
            content = yaml.load(
                Path(expand_home(os.fspath(file))).read_text(encoding="utf-8"), loader
            )
        except OSError as error:
            raise ConfigError(f"configuration file {file} cannot be read") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"configuration file {file} {yaml_fault(error)}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"configuration file {file} holds no 'key: value' lines")
        merged = _merge(merged, nest(content))
    return merged


def known_keys(config: Config) -> set[str]:
    """Keys that a run of a configuration's model declares."""
    listed = set().union(*config.parameters.values()) - {"config_file"}  # which nothing reads
    return (set(config.internal_config_dict) - _OF_THE_MODEL).union(
        listed,
        _WITHOUT_DEFAULT,
        filter(None, [_SHARES.get(str(config.external_config_dict.get("transform")))]),
        *(settings.model_fields for settings in _settings_of(config.model_class)),
    )


def _settings_of(model: Any) -> tuple[type[RunSettings], Any]:
    return RunSettings, getattr(model, "settings", RunSettings)


def final_settings(config: Config) -> dict[str, Any]:
    """Lay the given settings over the defaults, and check their values.

    Raises
    ------
    ConfigError
        If a value is of a wrong type, out of range, or has no meaning for the model.
    """
    given = config.external_config_dict
    internal = config.internal_config_dict
    given |= {key: _plain(key, value, internal.get(key)) for key, value in given.items()}
    final = _merge(internal, given)
    declared: set[str] = set()
    for settings in _settings_of(config.model_class):
        declared |= set(settings.model_fields)
        validate(settings, {key: final[key] for key in settings.model_fields if key in final})
    for key, default in config.internal_config_dict.items():
        if key not in declared:
            check_value(_type_of(default), key, final[key])
    repeatable = config.internal_config_dict["repeatable"]
    if final["repeatable"] != repeatable:
        raise ConfigError(f"repeatable must be {repeatable} for {config.model} (fixed by its kind)")
    stage, before = final.get("train_stage", final.get("train_method")), final.get("pre_model_path")
    if before is not None and stage in _FROM_A_FILE and not Path(before).is_file():
        raise ConfigError(
            f"{config.model} begins '{stage}' from a checkpoint of the stage before, and "
            f"pre_model_path '{before}' is no file: name it (--pre_model_path=FILE)"
        )
    if share := _SHARES.get(str(final["transform"])):
        check_value(Share, f"{share} (of transform: {final['transform']})", final.get(share))
    _choose_features(final, given, config.dataset)
    if isinstance(final["metrics"], str):
        final["metrics"] = [name.strip() for name in final["metrics"].split(",")]
    if isinstance(final["report_modes"], str):
        final["report_modes"] = [final["report_modes"]]
    for source in given.get("unload_col") or {}:  # all other columns, as in RecBole
        if source not in (given.get("load_col") or {}):
            final["load_col"] = {**(final["load_col"] or {}), source: "*"}
    for key, _ in (*getattr(config.model_class, "stages", ()), ("pretrain_epochs", None)):
        if "epochs" in given and key in final and key not in given:
            final[key] = min(final[key], final["epochs"])
    return final


def _plain(key: str, value: Any, default: Any = None) -> Any:
    """Paths as text, ``~`` in full, numbers of numpy as Python's, and tuples as lists.

    Intervals such as (5, 10) become text: a list would be a closed one. The text "None", as YAML
    reads it, becomes None, but where it may be meant: the ``default`` is a text.
    """
    if isinstance(value, dict):
        return {name: _plain(key, part) for name, part in value.items()}
    if isinstance(value, str) and value == "None" and not isinstance(default, str):
        return None
    if value is None and key == "gpu_id":
        return ""  # as a file has it: no GPU
    if isinstance(value, (str, os.PathLike)):
        return expand_home(os.fspath(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, tuple) and key != "gpu_id":
        return str(value) if key.endswith("_interval") else list(value)
    return value


def _choose_features(final: dict[str, Any], given: Mapping[str, Any], dataset: str) -> None:
    """Give models that read features of items, such as SASRecF, a column of the data by default.

    RecBole's own default is a column of MovieLens. The columns are loaded, too.
    """
    path = Path(final["data_path"]) / dataset / f"{dataset}.item"
    keys = [key for key in ("selected_features", "item_attribute") if key in final]
    if not keys or not path.is_file():
        return
    columns = read_columns(path, None)
    usual = next(name for name in ("categories", "brand", "domain") if name in {*columns, "domain"})
    wanted = []
    for key in keys:
        if key not in given:
            final[key] = usual
        if key == "selected_features" and isinstance(final[key], str):
            final[key] = [final[key]]
        names = [final[key]] if isinstance(final[key], str) else final[key]
        for name in names if isinstance(names, (list, tuple)) else ():
            if name not in columns:
                raise ConfigError(f"{key}: {path} has no column '{name}'{nearest(name, columns)}")
            if columns[name].startswith("float") and name not in final["numerical_features"]:
                raise ConfigError(
                    f"{key}: '{name}' is a column of numbers: --numerical_features=\"['{name}']\""
                )
            wanted.append(name)
    load = final["load_col"]
    if load and load.get("item", "*") != "*":
        final["load_col"] = {**load, "item": list(dict.fromkeys([*load["item"], *wanted]))}


def _type_of(default: Any) -> Any:
    """Type of a key that no settings declare: as its default, and as much above zero."""
    if isinstance(default, (bool, str)):
        return type(default)
    if isinstance(default, int):
        return Amount if default >= 0 else int
    if isinstance(default, float) and math.isfinite(default):
        return NonNegative if default >= 0 else Annotated[float, Field(allow_inf_nan=False)]
    return Any


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others; of nested ones only the named parts change."""
    out = dict(below)
    for key, value in above.items():
        if key in NESTED and isinstance(value, dict) and isinstance(out.get(key), dict):
            value = {**out[key], **value}
        out[key] = value
    return out
