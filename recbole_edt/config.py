"""Configuration: RecBole's own, with the plugin's property files, presets and checks on top."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from recbole.config import Config

from recbole_edt.errors import ConfigError, as_config_error
from recbole_edt.io.paths import find_data_root, properties_dir
from recbole_edt.registry import PROPERTIES, known_models
from recbole_edt.settings import nearest, nest
from recbole_edt.values import NESTED, check_values

_ALWAYS_KNOWN = {
    "model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "offset", "local_rank",
    "encoding", "benchmark_filename", "train_neg_sample_args", "numerical_features",
    "selected_features", "pooling_mode", "single_spec", "domains", "clip_grad_norm",
}  # fmt: skip


def plugin_property_files(model: str, dataset: str, preset: str | None = None) -> list[Path]:
    """Property files of the plugin for a model and a dataset, in the order they are laid.

    Raises
    ------
    ConfigError
        If the model has no such preset.
    """
    root = properties_dir()
    model = PROPERTIES.get(model, model)
    files = [root / "overall.yaml", root / "model" / f"{model}.yaml"]
    if preset:
        path = root / "model" / f"{model}-{preset}.yaml"
        if not path.is_file():
            known = sorted(
                file.stem.removeprefix(f"{model}-")
                for file in (root / "model").glob(f"{model}-*.yaml")
            )
            raise ConfigError(
                f"{model} has no preset '{preset}'"
                + (f" (it has: {', '.join(known)})" if known else " (it has none)")
            )
        files.append(path)
    files.append(root / "dataset" / f"{dataset}.yaml")
    return [file for file in files if file.is_file()]


def lay_properties(config: Config, model: str, dataset: str) -> None:
    """Lay the plugin's property files over RecBole's internal ones.

    ``dataset/<D>.yaml`` may hold a section ``per_model: {<M>: {...}}`` that applies to one model;
    a preset stays as printed and takes none of it.
    """
    preset = config.external_config_dict.get("preset")
    for file in plugin_property_files(model, dataset, preset):
        config._update_internal_config_dict(str(file))
    per_model = config.internal_config_dict.pop("per_model", None) or {}
    if not preset:
        for name in dict.fromkeys((PROPERTIES.get(model, model), model)):
            config.internal_config_dict.update(per_model.get(name, {}))
    config.internal_config_dict["data_path"] = find_data_root(dataset)


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
        For anything the user has to mend.
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
        self.external_config_dict = merge(self.file_config_dict, self.variable_config_dict)

    def _load_cmd_line(self):
        return {}

    def _convert_config_dict(self, config_dict):
        return config_dict

    def _get_model_and_dataset(self, model, dataset):
        if isinstance(model, str):
            check_model(model)
        return super()._get_model_and_dataset(model, dataset)

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        self._check_keys()

    def known_keys(self) -> set[str]:
        """Keys that a run of this model can be told."""
        known = set(self.internal_config_dict) | _ALWAYS_KNOWN
        known.update(*self.parameters.values())
        return known

    def _check_keys(self):
        known = self.known_keys()
        for key in self.external_config_dict:
            if key not in known:
                raise ConfigError(f"unknown key '{key}'{nearest(str(key), known)}")

    def _get_final_config_dict(self):
        given = {
            key: list(value) if isinstance(value, tuple) and key != "gpu_id" else value
            for key, value in self.external_config_dict.items()
        }
        check_values(given, self.internal_config_dict)
        final = merge(self.internal_config_dict, given)
        if isinstance(final["report_modes"], str):
            final["report_modes"] = [final["report_modes"]]
        if final.get("loss_type") == "CE" and "train_neg_sample_args" not in given:
            final["train_neg_sample_args"] = None  # a softmax over all items samples none
        return final

    def _init_device(self):
        if not self.final_config_dict["use_gpu"]:
            self.final_config_dict["gpu_id"] = ""  # RecBole decides by this key alone
        super()._init_device()  # meets the other processes, if there are some: `registry`


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


def check_model(model: str) -> None:
    """Refuse a model that neither the plugin nor RecBole's sequential models have."""
    known = known_models()
    if model not in known:
        raise ConfigError(f"unknown model '{model}'{nearest(model, known)}")


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others; of nested ones only the named parts change."""
    out = dict(below)
    for key, value in above.items():
        if key in NESTED and isinstance(value, dict) and isinstance(out.get(key), dict):
            value = {**out[key], **value}
        out[key] = value
    return out


def take_names(given: dict[str, Any], *keys: str) -> list[str]:
    """Take names that a command cannot do without out of its arguments.

    Raises
    ------
    ConfigError
        Naming the first that is missing.
    """
    for key in keys:
        if not isinstance(given.get(key), str):
            raise ConfigError(f"--{key}=NAME is missing")
    return [given.pop(key) for key in keys]


def set_threads(config: Config) -> None:
    """Apply the configured number of compute threads (``threads``; empty = the machine's)."""
    if config["threads"]:
        import torch

        torch.set_num_threads(int(config["threads"]))
        os.environ["OMP_NUM_THREADS"] = str(config["threads"])
