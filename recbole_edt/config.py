"""Configuration: RecBole's own, with the plugin's property files, presets and checks on top."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field
from pydantic.fields import FieldInfo
from recbole.config import Config
from recbole.evaluator import register
from recbole.evaluator.base_metric import TopkMetric

from recbole_edt.errors import ConfigError, as_config_error
from recbole_edt.evaluation.metrics import METRICS
from recbole_edt.io.paths import find_data_root, properties_dir
from recbole_edt.registry import find_model, is_plugin_model, properties_of
from recbole_edt.run_settings import RunSettings
from recbole_edt.settings import Amount, NonNegative, check_value, nearest, nest, validate

_NESTED = ("eval_args", "train_neg_sample_args", "load_col")
"""Keys whose value is a mapping of which single entries can be set."""

_WITHOUT_DEFAULT = {
    "model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "offset", "local_rank",
    "encoding", "selected_features", "pooling_mode", "single_spec",
}  # fmt: skip
"""Keys that RecBole reads and has no default for."""


def preset_file(model: type, preset: str) -> Path:
    """Property file of a preset of a model.

    Raises
    ------
    ConfigError
        If the model has no such preset; the message names those it has.
    """
    name, folder = properties_of(model)[0], properties_dir() / "model"
    path = folder / f"{name}-{preset}.yaml"
    if not path.is_file():
        known = sorted(file.stem.removeprefix(f"{name}-") for file in folder.glob(f"{name}-*.yaml"))
        raise ConfigError(
            f"{name} has no preset '{preset}'"
            + (f" (it has: {', '.join(known)})" if known else " (it has none)")
        )
    return path


def lay_properties(config: Config) -> None:
    """Lay the plugin's defaults over RecBole's internal ones.

    They are, each over the one before: ``overall.yaml``, the model's property file, what a subclass
    changes or adds in its ``settings``, the preset, and the file of the dataset. The latter may
    hold a section ``per_model: {<M>: {...}}`` for single models, of which a preset takes nothing.
    """
    model, internal = config.model_class, config.internal_config_dict
    preset = config.external_config_dict.get("preset")
    root, (name, owner) = properties_dir(), properties_of(model)

    def lay(file: Path) -> None:
        if file.is_file():
            config._update_internal_config_dict(str(file))

    lay(root / "overall.yaml")
    inherited, own = defaults(owner), defaults(model)
    internal.update(inherited)
    if is_plugin_model(model):
        internal["train_neg_sample_args"] = None  # the plugin's loaders draw the negatives
    lay(root / "model" / f"{name}.yaml")
    internal.update({k: v for k, v in own.items() if k not in inherited or inherited[k] != v})
    if preset:
        lay(preset_file(model, preset))
    lay(root / "dataset" / f"{config.dataset}.yaml")
    per_model = internal.pop("per_model", None) or {}
    if not preset:
        for model_name in dict.fromkeys((name, model.__name__)):
            internal.update(per_model.get(model_name, {}))
    internal["data_path"] = find_data_root(config.dataset)


def settings_of(model: Any) -> dict[str, FieldInfo]:
    """Key -> field of a model's settings; RecBole's models have none."""
    return model.settings.model_fields if is_plugin_model(model) else {}


def defaults(model: type) -> dict[str, Any]:
    """Key -> default of a model's settings, without the keys that have none."""
    return {
        key: field.get_default(call_default_factory=True, validated_data={})
        for key, field in settings_of(model).items()
        if not field.is_required()
    }


class EDTConfig(Config):
    """RecBole's configuration for a run of this plugin, for its own models and the built-in ones.

    Reads nothing from the process' command line: pass overrides explicitly. Unknown models and
    keys are refused with the nearest known name.

    Parameters
    ----------
    model, dataset : str
        Names, as in RecBole.
    config_file_list : list of str, optional
        Further YAML files.
    config_dict : dict, optional
        Overrides; nested keys may be dotted (``eval_args.mode``).

    Raises
    ------
    ConfigError
        If a name, a key, a value or a file is invalid.
    """

    def __init__(
        self,
        model: str,
        dataset: str,
        config_file_list: Sequence[str] | None = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        overrides = nest(config_dict or {})
        check_files_exist(config_file_list or [])
        with as_config_error("configuration"):
            super().__init__(model, dataset, list(config_file_list or []), overrides)

    def _load_config_files(self, file_list):
        merged: dict[str, Any] = {}
        for file in file_list:
            merged = merge(merged, nest(super()._load_config_files([file])))
        return merged

    def _merge_external_config_dict(self):
        self.external_config_dict = {
            key: list(value) if isinstance(value, tuple) and key != "gpu_id" else value
            for key, value in merge(self.file_config_dict, self.variable_config_dict).items()
        }

    def _load_cmd_line(self):
        return {}

    def _convert_config_dict(self, config_dict):
        return config_dict

    def _get_model_and_dataset(self, model, dataset):
        if isinstance(model, str):
            find_model(model)
        self.model, self.model_class, self.dataset = super()._get_model_and_dataset(model, dataset)
        return self.model, self.model_class, self.dataset

    def known_keys(self) -> set[str]:
        """Keys that a run of this model can be told."""
        known = set(self.internal_config_dict) | _WITHOUT_DEFAULT | set(RunSettings.model_fields)
        known.update(settings_of(self.model_class), *self.parameters.values())
        return known

    def _get_final_config_dict(self):
        given = self.external_config_dict
        known = self.known_keys()
        for key in given:
            if key not in known:
                raise ConfigError(f"unknown key '{key}'{nearest(str(key), known)}")
        final = merge(self.internal_config_dict, given)
        check_settings(self.model_class, final, self.internal_config_dict)
        if isinstance(final["report_modes"], str):
            final["report_modes"] = [final["report_modes"]]
        if final.get("loss_type") == "CE" and "train_neg_sample_args" not in given:
            final["train_neg_sample_args"] = None  # a softmax over all items samples none
        return final

    def _set_default_parameters(self):
        for name in METRICS:  # RecBole looks them up; they are computed by the plugin
            register.metric_types.setdefault(name, TopkMetric.metric_type)
            register.metric_information.setdefault(name, TopkMetric.metric_need)
            register.metrics_dict.setdefault(name, TopkMetric)
        super()._set_default_parameters()

    def _init_device(self):
        if not self.final_config_dict["use_gpu"]:
            self.final_config_dict["gpu_id"] = ""  # RecBole decides by this key alone
        super()._init_device()


def check_settings(model: Any, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse values of keys that no run can use.

    Parameters
    ----------
    model : type
        The model's class; its ``settings``, where it has some, check its own keys.
    values : mapping
        All keys of the run.
    known : mapping
        Their defaults: a key that no settings declare is of its default's type, and not negative
        unless the default is.

    Raises
    ------
    ConfigError
        Naming the key, what it must be and what it is.
    """
    declared: set[str] = set()
    for settings in (RunSettings, *([model.settings] if is_plugin_model(model) else [])):
        declared |= set(settings.model_fields)
        validate(settings, {key: values[key] for key in settings.model_fields if key in values})
    for key, default in known.items():
        kind = _kind_of(default)
        if key not in declared and kind is not None:
            check_value(kind, key, values[key])


def _kind_of(default: Any) -> Any:
    """Type of the values that can stand for a default, or None if it does not say."""
    if isinstance(default, (bool, str)):
        return type(default)
    if isinstance(default, int):
        return Amount if default >= 0 else int
    if isinstance(default, float) and math.isfinite(default):
        return NonNegative if default >= 0 else Annotated[float, Field(allow_inf_nan=False)]
    return None


def check_files_exist(files: Iterable[str]) -> None:
    """Refuse configuration files that are missing or are no YAML mapping."""
    for file in files:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"configuration file {file} cannot be read") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"configuration file {file} is not valid YAML") from error
        if not isinstance(content, dict):
            raise ConfigError(f"configuration file {file} holds no 'key: value' lines")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others; of nested ones only the named parts change."""
    out = dict(below)
    for key, value in above.items():
        if key in _NESTED and isinstance(value, dict) and isinstance(out.get(key), dict):
            value = {**out[key], **value}
        out[key] = value
    return out


def set_threads(config: Config) -> None:
    """Apply the configured number of compute threads (``threads``; empty = the machine's)."""
    if config["threads"]:
        import torch

        torch.set_num_threads(int(config["threads"]))
