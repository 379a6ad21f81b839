"""Trainings that comparisons and experiments share, and where their results lie."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recbole_edt.config import EDTConfig
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io.files import file_sha256
from recbole_edt.settings import nearest
from recbole_edt.trainer import checkpoint
from recbole_edt.trainer.checkpoint import run_file

_PARTS = (".inter", ".item", ".user", ".item_emb.npy", ".user_emb.npy")


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes
    ----------
    model : str
        A model of the plugin or of RecBole.
    dataset : str
        Name of the data set.
    data_path : Path
        Folder that holds the data set's folder.
    seed : int
        Of training.
    keys : mapping
        Settings that differ from the property files.
    """

    model: str
    dataset: str
    data_path: Path
    seed: int
    keys: Mapping[str, Any] = field(default_factory=dict)

    def overrides(self) -> dict[str, Any]:
        """Settings of the run beside its model and data set."""
        return {"seed": self.seed, "data_path": str(self.data_path), **self.keys}


Runs = dict[str, list[Run]]
"""Row of a table -> its runs, one per seed."""


def flatten(runs: Mapping[str, Sequence[Run]]) -> list[Run]:
    """All runs of all rows."""
    return [run for of_row in runs.values() for run in of_row]


class RunStore:
    """Results of runs in one folder, named by everything that decides them.

    Parameters
    ----------
    folder : Path
        Receives, per run, ``<name>.json`` (its results), ``<name>.npz`` (ranks), ``<name>.log``,
        and its best checkpoint in ``checkpoints/<data>/``: checkpoints are named by settings alone,
        which variants of a data set share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).absolute()
        self._names: dict[str, str] = {}
        self._fingerprints: dict[Path, str] = {}

    def name(self, run: Run) -> str:
        """Name of a run's files: model, seed and a hash of its settings and its data.

        Raises
        ------
        EDTError
            If the run's model, keys or data set are invalid.
        """
        key = repr(run)
        if key not in self._names:
            settings = checkpoint.settings(self._config(run))
            digest = checkpoint.digest([settings, self._fingerprint(run)])
            self._names[key] = f"{run.model}-{run.seed}-{digest}"
        return self._names[key]

    def path(self, run: Run, suffix: str) -> Path:
        """One of a run's files."""
        return self.folder / f"{self.name(run)}{suffix}"

    def checkpoints(self, run: Run) -> Path:
        """Folder of the checkpoints of all runs on the same data."""
        return self.folder / "checkpoints" / self._fingerprint(run)

    def checkpoint(self, run: Run) -> Path:
        """Checkpoint of a run's best epoch."""
        return Path(run_file(self._config(run)))

    def _config(self, run: Run) -> EDTConfig:
        overrides = {**run.overrides(), "checkpoint_dir": str(self.checkpoints(run))}
        return EDTConfig(run.model, run.dataset, None, overrides)

    def _fingerprint(self, run: Run) -> str:
        folder = run.data_path / run.dataset
        if folder not in self._fingerprints:
            if not (folder / f"{folder.name}.inter").is_file():
                raise DataError(f"there is no data set in {folder}")
            files = [folder / f"{folder.name}{part}" for part in _PARTS]
            content = [[path.name, file_sha256(path)] for path in files if path.is_file()]
            self._fingerprints[folder] = checkpoint.digest(content)
        return self._fingerprints[folder]

    def results(self, run: Run) -> dict[str, Any] | None:
        """Content of a run's results file; None for a run that is not done."""
        try:
            return json.loads(self.path(run, ".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def results_of(self, runs: Runs) -> dict[str, list[dict[str, Any]]]:
        """Results of those runs that are done, by row."""
        return {
            row: [results for run in of_row if (results := self.results(run)) is not None]
            for row, of_row in runs.items()
        }

    def ranks(self, run: Run) -> dict[str, np.ndarray]:
        """Rank of every user's target, as ``evaluation.report.write_ranks`` has it.

        Raises
        ------
        DataError
            If the file is missing or damaged.
        """
        path = self.path(run, ".npz")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} is missing or damaged: delete the run beside it") from error

    def command(self, run: Run, threads: int) -> list[str]:
        """Command line of a run, which goes on where an earlier one was killed."""
        settings = {
            "threads": threads,
            "show_progress": False,
            "state": "ERROR",
            **run.overrides(),
            "resume": True,
            "result_file": self.path(run, ".json"),
            "ranks_file": self.path(run, ".npz"),
            "checkpoint_dir": self.checkpoints(run),
        }
        names = [f"--model={run.model}", f"--dataset={run.dataset}"]
        given = [f"--{key}={value}" for key, value in settings.items()]
        return [sys.executable, "-m", "recbole_edt", "run", *names, *given]

    def clean(self, run: Run) -> None:
        """Delete what only an unfinished run needs: its last epoch and its first stage."""
        best = self.checkpoint(run)
        for part in (".last", ".stage1"):
            best.with_suffix(f"{part}.pth").unlink(missing_ok=True)


# -- keys of runs -------------------------------------------------------------------------------


@cache
def _known_keys(model: str, dataset: str) -> frozenset[str]:
    return frozenset(EDTConfig(model, dataset).known_keys())


def keys_for(given: Mapping[str, Any], model: str, dataset: str) -> dict[str, Any]:
    """Those settings that a model knows; dotted ones go by their first part."""
    known = _known_keys(model, dataset)
    return {key: value for key, value in given.items() if key.split(".")[0] in known}


def refuse_unknown(given: Iterable[str], models: Iterable[str], dataset: str) -> None:
    """Refuse settings that no model of a command knows.

    Raises
    ------
    ConfigError
        Naming the first, and the nearest known one.
    """
    known = set().union(*(_known_keys(model, dataset) for model in models))
    for key in given:
        if key.split(".")[0] not in known:
            raise ConfigError(f"unknown key '{key}'{nearest(key, known)}")
