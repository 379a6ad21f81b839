"""Datasets and loaders in files: RecBole's ``save_dataset``, ``save_dataloaders`` and their paths.

The files are pickles, as RecBole's own are: reading one runs what it says. One of other data or
settings is not used.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.data.transform import construct_transform
from recbole.utils.argument_list import dataset_arguments

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.known import Known
from recbole_edt.distributed import world_size
from recbole_edt.errors import ConfigError
from recbole_edt.io.atomic import file_digests
from recbole_edt.io.files import write_pickle

_KEYS = (
    "dataset", *dataset_arguments, "repeatable", "augmentation", "augmented_histories", "domains",
    "discretization", "numerical_features", "start_from", "pretrained_path",
)  # fmt: skip


def create_dataset(config, known: Known | None = None) -> CrossDomainDataset:
    """Read a dataset: from the file that an earlier run saved if it fits, else from atomic files.

    ``known`` is what a model knows that was trained before; items are numbered as by it.

    Raises
    ------
    ConfigError
        If ``dataset_save_path`` names no file, a damaged one, or one of other data or settings.
    EDTError
        If the data are invalid.
    """
    data = _read(config, "dataset_save_path", CrossDomainDataset.saved_file(config), lambda d: d)
    if data is None:
        data = CrossDomainDataset(config, known)
        if config["save_dataset"]:
            data.save()
    data.config, data.dataset_path = config, config["data_path"]
    return data


def save_loaders(config, loaders) -> None:
    """Save training, validation and test loaders; they themselves do not change."""
    _check_processes("save_dataloaders")
    generators = [loader.generator for loader in loaders]
    loaders[0]._dataset.saved_from = file_digests(config["data_path"], config["dataset"])
    for loader in loaders:  # they cannot be pickled everywhere: RecBole saves their states
        loader.generator = loader.sampler.generator = None
    try:
        states = [generator.get_state() for generator in generators]
        write_pickle(_loaders_file(config), list(zip(loaders, states, strict=True)))
    finally:
        for loader, generator in zip(loaders, generators, strict=True):
            loader.generator = loader.sampler.generator = generator


def load_loaders(config, train_class: type) -> tuple | None:
    """Load the loaders that an earlier run saved if they fit and train as ``train_class`` does.

    Raises
    ------
    ConfigError
        If ``dataloaders_save_path`` names no file, a damaged one, or one of other data, settings or
        kinds of models.
    """
    key, default = "dataloaders_save_path", _loaders_file(config)
    saved = _read(config, key, default, lambda pairs: pairs[0][0]._dataset)
    if saved is None:
        return None
    _check_processes(key)
    train = saved[0][0]
    if train.shuffle != config["shuffle"] or type(train) is not train_class:
        raise ConfigError(
            f"{config[key] or default} does not fit this run: "
            f"its loaders are for other models than {config['model']}, or have another shuffle"
        )
    for loader, state in saved:
        loader.generator = loader.sampler.generator = torch.Generator().set_state(state)
        loader._dataset.config, loader._dataset.dataset_path = config, config["data_path"]
        loader.transform = construct_transform(config)
        loader.update_config(config)
    return tuple(loader for loader, _ in saved)


def _loaders_file(config) -> Path:
    return Path(
        config["checkpoint_dir"], f"{config['dataset']}-for-{config['model']}-dataloader.pth"
    )


def _read(config, key: str, default: Path, dataset_of: Callable[[Any], Any]) -> Any:
    """Content of the file that ``key`` names, or of the default one; None where none fits.

    Where ``key`` is False, none is read.
    """
    path = Path(config[key] or default)
    if config[key] is False:
        return None
    if not path.is_file():
        if config[key]:
            raise ConfigError(f"{key} {path}: there is no such file")
        return None
    try:
        content = pickle.loads(path.read_bytes())
        reason = _unlike(config, dataset_of(content))
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ConfigError(f"{path} is damaged, or of another version: remove it") from error
    if reason and config[key]:
        raise ConfigError(f"{key} {path} does not fit this run: {reason}")
    getLogger().info(f"{path} is not used: {reason}" if reason else f"Loaded {path}")
    return None if reason else content


def _unlike(config, data: CrossDomainDataset) -> str:
    """What a saved dataset has otherwise than a configuration asks for; empty if nothing."""
    for key in _KEYS:
        if config[key] != data.config[key]:
            return f"it has {key} {data.config[key]}, not {config[key]}"
    if data.saved_from != file_digests(config["data_path"], config["dataset"]):
        return "the atomic files have changed"
    return ""


def _check_processes(key: str) -> None:
    if world_size() > 1:  # RecBole's loaders keep which part of the rows is theirs
        raise ConfigError(f"{key} works in one process (start it without torchrun)")
