"""A run again from its checkpoint: configuration, data, loaders and model."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.data import data_preparation
from recbole.utils import init_seed

from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.known import Known
from recbole_edt.data.saved import create_dataset
from recbole_edt.errors import ConfigError, as_config_error
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.trainer import checkpoint, growth

_FREE = {"eval_batch_size", "show_progress"}  # keys that change no result
_OF_PRETRAINING = {"train_stage", "train_method", "pre_model_path"}


def load_run(
    path: str | Path, dataset: str | None = None, changes: Mapping[str, Any] | None = None
) -> tuple:
    """Load a checkpoint of the plugin with the data that it was trained on, or that have grown.

    Parameters
    ----------
    dataset : str, optional
        Name of the dataset; by default the one that the checkpoint names.
    changes : mapping, optional
        Settings that change no result, such as ``data_path`` or ``use_gpu``.

    Returns
    -------
    tuple
        ``config, model, dataset, train_data, valid_data, test_data``, as RecBole's
        ``load_data_and_model``.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, damaged, or belongs to other data.
    EDTError
        If its settings or the data are invalid.
    """
    content = checkpoint.load(path)
    config = _config(content, dataset, changes)
    data = _data(config, content, path)
    with as_config_error(f"dataset {config['dataset']}"):
        loaders = data_preparation(config, data)
    return config, _model(config, content, data, loaders[0]._dataset, path), data, *loaders


def load_served(
    path: str | Path, dataset: str | None = None, changes: Mapping[str, Any] | None = None
) -> tuple:
    """:func:`load_run` without loaders: ``config, model, dataset``.

    All users are there, those too who had too few rows, or too many, to be trained on.
    """
    content = checkpoint.load(path)
    config = _config(content, dataset, changes)
    config["user_inter_num_interval"] = None
    data = _data(config, content, path)
    with as_config_error(f"dataset {config['dataset']}"):
        train, *_ = data.build()
    return config, _model(config, content, data, train, path), data


def _data(config: EDTConfig, content: Mapping[str, Any], path: str | Path) -> CrossDomainDataset:
    init_seed(config["seed"], config["reproducibility"])
    with as_config_error(f"dataset {config['dataset']}"):
        return create_dataset(config, Known(content["known"], str(path)))


def _model(
    config: EDTConfig, content: dict[str, Any], data: CrossDomainDataset, train, path: str | Path
) -> Any:
    """Model of a checkpoint; ``train`` is the view of the training rows of its data."""
    model = config.model_class(config, train).to(config["device"])
    if isinstance(model, CrossDomainModel) and content["stage"] == 2 and not model.finetuning:
        model.begin_finetuning()
    checkpoint.load_state(model, growth.fitted(model, content, data, path), path)
    return model


def _config(
    content: Mapping[str, Any], dataset: str | None, changes: Mapping[str, Any] | None
) -> EDTConfig:
    """Configuration of the run that wrote a checkpoint."""
    dataset, changes = dataset or content["settings"]["dataset"], changes or {}
    folder = content.get("data_path")
    place = {"data_path": folder} if folder and Path(folder, dataset).is_dir() else {}
    for key, value in content["settings"].items():
        if key in changes and key not in _FREE and checkpoint.plain(changes[key]) != value:
            raise ConfigError(f"{key} is {value} in the checkpoint, and cannot be {changes[key]}")
    # what RecBole asks of a class without an input_type
    loss = {key: value for key, value in content["settings"].items() if key == "loss_type"}
    config = EDTConfig(content["model"], dataset, None, {**loss, **place, **changes})
    if folder and not place and "data_path" not in changes:
        getLogger().warning(
            f"{Path(folder, dataset)} is not there: {config['data_path']} is read in its "
            "place (--data_path names another folder)"
        )
    # a model that began with another's parameters has its own now
    begun = _OF_PRETRAINING if content["settings"].get("pre_model_path") else ()
    for key, value in content["settings"].items():
        if key not in ("model", "dataset", *begun, *changes):
            known = config[key]
            # an enumeration is saved as text: `InputType.PAIRWISE`
            config[key] = type(known)[value.split(".")[1]] if isinstance(known, Enum) else value
    # A checkpoint may come from anywhere, and a saved dataset or loader runs what it says.
    config["dataset_save_path"] = config["dataloaders_save_path"] = False
    return config
