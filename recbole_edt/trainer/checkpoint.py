"""Checkpoints: plain tensors and settings, written atomically, refused when damaged."""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import lru_cache
from io import BytesIO
from itertools import chain
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch

from recbole_edt.errors import CheckpointError
from recbole_edt.io.files import atomic_write, file_sha256
from recbole_edt.registry import is_users_own
from recbole_edt.settings import expand_home

FORMAT = "recbole-edt/2"
PARTS = ("stage1", "best", "last")  # files of a training that has not ended
_NOT_SETTINGS = {
    "resume", "result_file", "ranks_file", "show_progress", "state", "checkpoint_dir", "device",
    "gpu_id", "use_gpu", "local_rank", "single_spec", "log_wandb", "wandb_project", "data_path",
    "threads", "worker", "nproc", "ip", "port", "offset", "process_timeout", "fast_kernels",
    "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path",
}  # fmt: skip

# Settings that may be others when a run is resumed: when it ends, and what is reported.
_OF_ITS_END = {
    "stopping_step", "eval_step", "time_limit", "metrics", "topk", "report_modes",
    "eval_batch_size", "loss_decimal_place", "metric_decimal_place",
}  # fmt: skip


def plain(value: Any) -> Any:
    """Reduce a setting to what a checkpoint may hold: numbers, text, None, lists, dictionaries."""
    return json.loads(json.dumps(value, default=str))


def settings(config) -> dict[str, Any]:
    """Return the settings that decide a run's result, without places and display."""
    final = sorted(config.final_config_dict.items())
    return {key: plain(value) for key, value in final if key not in _NOT_SETTINGS}


def digest(value: Any) -> str:
    """Hash of plain settings, ten hexadecimal digits."""
    return hashlib.sha256(repr(plain(value)).encode()).hexdigest()[:10]


def data_digest(folder: str | Path, name: str) -> str:
    """Hash of the files of a data set that a training may read, ten hexadecimal digits."""
    parts = (".inter", ".item", ".user", ".item_emb.npy", ".user_emb.npy")
    files = [path for part in parts if (path := Path(folder, f"{name}{part}")).is_file()]
    return digest([[path.name, _sha256(path, path.stat().st_mtime_ns)] for path in files])


@lru_cache
def _sha256(path: Path, mtime_ns: int) -> str:
    return file_sha256(path)


def run_file(config, part: str = "") -> str:
    """Path of a run's checkpoint, or of one of its ``PARTS``; it is named by settings and data.

    A run that is resumed with another number of epochs, or reports more, keeps its name.
    """
    named = {
        key: value
        for key, value in settings(config).items()
        if key not in _OF_ITS_END and not key.endswith("epochs")
    }
    data = data_digest(config["data_path"], config["dataset"])
    name = f"{config['model']}-{config['dataset']}-{config['seed']}-{digest(named)}-{data}"
    return f"{config['checkpoint_dir']}/{name}{'.' if part else ''}{part}.pth"


def differences(then: dict[str, Any], config) -> str:
    """Name the settings of a checkpoint that a configuration has otherwise; empty if none."""
    now = settings(config)
    return "; ".join(f"{k} {then[k]}, not {now[k]}" for k in then if now.get(k, then[k]) != then[k])


def dataset_fingerprint(dataset) -> dict[str, Any]:
    """Return what identifies a dataset: its domains, sizes and a hash of its ids in order."""
    tokens = hashlib.sha256()
    for field in (dataset.uid_field, dataset.iid_field):
        tokens.update("\n".join(map(str, dataset.field2id_token[field])).encode())
    tokens.update(dataset.train_sequences.items.tobytes())
    return {
        "name": dataset.dataset_name,
        "domains": list(dataset.domains),
        "users": int(dataset.user_num),
        "items": int(dataset.item_num),
        "hash": tokens.hexdigest()[:16],
    }


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that at every moment the old or the new one is whole."""
    # Into memory first: if a full disk or Ctrl-C stops torch within a file, it raises an error
    # about its own archive instead of the reason.
    packed = BytesIO()
    torch.save({"format": FORMAT, **content}, packed)
    with atomic_write(path) as temporary:
        temporary.write_bytes(packed.getbuffer())


def is_foreign(path: str | Path) -> bool:
    """Whether a file is an intact archive of torch, but no checkpoint of the plugin."""
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            return FORMAT.encode() not in archive.read(pickled)[:64]  # it is the first entry
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def load(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint, or raise CheckpointError; nothing in it is executed."""
    path = expand_home(str(path))
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        content = torch.load(path, map_location=device, weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        what = "is damaged or is no checkpoint"
        if is_foreign(path):
            what = "is not of recbole_edt, maybe of RecBole's own pipeline: train it with `run`"
        raise CheckpointError(f"checkpoint {path} {what}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this version of recbole_edt")
    return content


def other_state(model: Any) -> dict[str, Any]:
    """Return what a model of RecBole keeps beside its parameters: counters, counts and caches.

    Modules and matrices that it makes of the data are left out: a new model has them.
    """
    counters = {k: v for k, v in vars(model).items() if type(v) in (int, float)}
    return counters | named_state(model)


def named_state(model: Any) -> dict[str, Any]:
    """Return what a model's ``other_parameter`` names; arrays of a user's own class as tensors."""
    named = model.other_parameter()
    if not is_users_own(type(model)):
        return {k: v for k, v in named.items() if v is None or torch.is_tensor(v)}
    tensors = {name: torch.from_numpy(named[name]) for name in arrays(model)}
    return {k: v for k, v in (named | tensors).items() if _is_plain(v)}


def arrays(model: Any) -> list[str]:
    """Names of the ``other_parameter`` that are arrays of numbers."""
    named = model.other_parameter().items()
    return [k for k, v in named if type(v) is np.ndarray and v.dtype.kind in "biuf"]


def _is_plain(value: Any) -> bool:
    """Whether a checkpoint may hold a value."""
    if type(value) in (dict, list, tuple):
        parts = chain(*value.items()) if isinstance(value, dict) else value
        return all(map(_is_plain, parts))
    return torch.is_tensor(value) or type(value) in (type(None), bool, int, float, str)


def for_recbole(model: Any) -> dict[str, Any]:
    """Return what ``load_other_parameter``, as RecBole's users call it, takes beside that state."""
    names = ("finetuning", "history_weights")
    return {name: getattr(model, name) for name in names if hasattr(model, name)}


def load_state(model: Any, content: dict[str, Any], path: str | Path) -> None:
    """Give a model the state of a checkpoint; CheckpointError if it does not fit."""
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = shorten(str(error).splitlines()[-1], 160, placeholder=" ...")
        raise CheckpointError(f"checkpoint {path} does not fit this model: {reason}") from error
    other = content.get("other_state") or {}
    as_arrays = {k: other[k].cpu().numpy() for k in content.get("arrays", ()) if k in other}
    model.load_other_parameter(other | as_arrays)
    model.history_weights = content.get("history_weights")


def check_dataset(content: dict[str, Any], dataset, path: str | Path) -> None:
    """Raise CheckpointError if a checkpoint was trained on other data, be it one row."""
    mine, theirs = dataset_fingerprint(dataset), content["dataset"]
    if mine != theirs:
        raise CheckpointError(
            f"checkpoint {path} belongs to other data: {_described(theirs)}, not "
            f"{_described(mine)}; --start_from trains on from it on data that have grown"
        )


def _described(data: dict[str, Any]) -> str:
    sizes = f"{data['users']} users, {data['items']} items, hash {data['hash']}"
    return f"{data['name']} ({sizes})"
