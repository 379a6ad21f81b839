"""Trainings that comparisons and experiments share: their results, and how they are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from tqdm import tqdm

from recbole_edt.errors import ConfigError, DataError, TrainingError
from recbole_edt.registry import preset_file
from recbole_edt.settings import nearest

if TYPE_CHECKING:
    from recbole_edt.config import EDTConfig


def configure(model: str, dataset: str, keys: Mapping[str, Any] | None = None) -> EDTConfig:
    """Configuration of a run; loads RecBole, which help does without."""
    from recbole_edt.config import EDTConfig

    return EDTConfig(model, dataset, None, keys)


@dataclass(frozen=True)
class Run:
    """One training and its test; ``keys`` differ from the property files.

    ``model`` is a name, or ``package.module:Class``.
    """

    model: str
    dataset: str
    data_path: Path
    seed: int
    keys: Mapping[str, Any] = field(default_factory=dict)

    def overrides(self) -> dict[str, Any]:
        """Settings of the run, without model and data set."""
        return {"seed": self.seed, "data_path": str(self.data_path), **self.keys}


Runs = dict[str, list[Run]]
"""Row of a table -> its runs, one per seed."""


def flatten(runs: Mapping[str, Sequence[Run]]) -> list[Run]:
    """All runs of all rows."""
    return [run for of_row in runs.values() for run in of_row]


class RunStore:
    """Results of runs in one folder, named by model, seed, and a hash of settings and data.

    Parameters
    ----------
    folder : Path
        Receives, per run, ``<name>.json`` (its results), ``<name>.npz`` (ranks), ``<name>.log``,
        and its best checkpoint in ``checkpoints/<name>/``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).absolute()
        self._names: dict[str, str] = {}

    def name(self, run: Run) -> str:
        """Name of a run's files; EDTError if its model, keys or data set are invalid."""
        from recbole_edt.trainer import checkpoint

        key = repr(run)
        if key not in self._names:
            config, folder = self.config(run), run.data_path / run.dataset
            if not (folder / f"{run.dataset}.inter").is_file():
                raise DataError(f"there is no data set in {folder}")
            data = checkpoint.data_digest(folder, run.dataset)
            digest = checkpoint.digest([checkpoint.settings(config), data])
            self._names[key] = f"{config['model']}-{run.seed}-{digest}"
        return self._names[key]

    def path(self, run: Run, suffix: str) -> Path:
        """One of a run's files."""
        return self.folder / f"{self.name(run)}{suffix}"

    def checkpoints(self, run: Run) -> Path:
        """Folder of a run's checkpoint."""
        return self.folder / "checkpoints" / self.name(run)

    def checkpoint(self, run: Run) -> Path:
        """Checkpoint of a run's best epoch, which the results name; without it no file."""
        named = (self.results(run) or {}).get("checkpoint", "none.pth")
        return self.checkpoints(run) / Path(named).name

    def config(self, run: Run) -> EDTConfig:
        """Configuration of a run."""
        return configure(run.model, run.dataset, run.overrides())

    def results(self, run: Run) -> dict[str, Any] | None:
        """Content of a run's results file; None for an unfinished run."""
        try:
            return json.loads(self.path(run, ".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def ranks(self, run: Run) -> dict[str, np.ndarray]:
        """Rank of every user's target, as ``evaluation.report.write_ranks`` has it."""
        path = self.path(run, ".npz")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise DataError(f"{path} is missing or damaged: delete the run beside it") from error

    def command(self, run: Run, threads: int) -> list[str]:
        """Command line of a run, which resumes a killed run."""
        settings = {
            "model": run.model,
            "dataset": run.dataset,
            "threads": threads,
            "show_progress": False,
            "state": "ERROR",
            **run.overrides(),
            "resume": True,
            "result_file": self.path(run, ".json"),
            "ranks_file": self.path(run, ".npz"),
            "checkpoint_dir": self.checkpoints(run),
        }
        given = [f"--{key}={value}" for key, value in settings.items()]
        return [sys.executable, "-m", "recbole_edt", "run", *given]


def execute(
    store: RunStore,
    runs: Sequence[Run],
    jobs: int | None = None,
    label: str = "runs",
    after: Callable[[str], None] = lambda name: None,
) -> dict[str, str]:
    """Do all unfinished runs, each once and ``jobs`` at a time.

    ``after`` is called with the name of each run that has finished or failed. Returns for the name
    of each failed run its last line.
    """
    distinct = {store.name(run): run for run in runs}
    pending = {name: run for name, run in distinct.items() if store.results(run) is None}
    if not pending:
        return {}
    store.folder.mkdir(parents=True, exist_ok=True)
    if jobs is None:
        import torch

        # trainings scale better side by side than over cores
        jobs = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    jobs = min(jobs, len(pending))
    workers = _Workers(store, max(1, (os.cpu_count() or 1) // jobs))
    done, failures = len(distinct) - len(pending), {}
    tqdm.write(f"logs of the runs: {store.folder}/*.log", file=sys.stderr)
    bar = tqdm(total=len(distinct), initial=done, desc=label)
    with bar, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(workers.train, run): name for name, run in pending.items()}
        try:
            for future in as_completed(futures):
                name, reason = futures[future], future.result()
                if reason is not None:
                    failures[name] = reason
                else:  # only an unfinished run needs its last epoch and its first stage
                    for part in ("last", "stage1"):
                        for file in store.checkpoints(pending[name]).glob(f"*.{part}.pth"):
                            file.unlink()
                bar.update()
                after(name)
        except BaseException:  # Ctrl-C included: no training outlives its command
            pool.shutdown(wait=False, cancel_futures=True)
            workers.stop()
            raise
    return failures


class _Workers:
    """Running processes."""

    def __init__(self, store: RunStore, threads: int) -> None:
        self.store, self.threads = store, threads
        self.running: set[subprocess.Popen] = set()
        self.stopped = False
        self.lock = Lock()

    def train(self, run: Run) -> str | None:
        """Do a run; return why it failed, or None."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        if ":" in run.model:  # its module may lie in this folder, the process works in another
            places = [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(places)
        log = self.store.path(run, ".log")
        with self.lock, log.open("wb") as output:
            if self.stopped:
                return "stopped"
            # its own session, so that Ctrl-C reaches it once: not from the terminal as well
            process = subprocess.Popen(
                self.store.command(run, self.threads), cwd=self.store.folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            self.running.add(process)
        code = process.wait()
        self.running.discard(process)
        if code == 0 and self.store.results(run) is not None:
            return None
        lines = [line for line in log.read_text("utf-8", "replace").split("\n") if line.strip()]
        if not lines:
            return f"ended with exit code {code}"
        where = "" if lines[-1].startswith("error: ") else f" (traceback in {log})"
        return lines[-1].removeprefix("error: ") + where

    def stop(self) -> None:
        """End all processes: they save their last epoch, or are killed after 20 seconds."""
        with self.lock:
            self.stopped = True
        running = list(self.running)
        for process in running:
            process.terminate()  # Ctrl-C is ignored below a shell in the background
        for process in running:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def check_failures(failures: Mapping[str, str]) -> None:
    """Raise a TrainingError with the last line of the first failed run."""
    for name, reason in failures.items():
        more = f" ({len(failures) - 1} further runs failed)" if len(failures) > 1 else ""
        raise TrainingError(f"run {name} failed: {reason}{more}")


_OF_THE_COMMAND = {
    "model", "dataset", "data_path", "seed", "resume", "result_file", "ranks_file",
    "checkpoint_dir",
}  # fmt: skip
"""Keys of a run that the commands set themselves."""


@cache
def _default_config(model: str, dataset: str) -> EDTConfig:
    return configure(model, dataset)


def _known_keys(models: Iterable[str], dataset: str) -> set[str]:
    return set().union(*(_default_config(model, dataset).known_keys() for model in models))


def _has_preset(model: str, preset: str, dataset: str) -> bool:
    return preset_file(_default_config(model, dataset).model_class, preset).is_file()


def keys_for(
    given: Mapping[str, Any], model: str, dataset: str, beside: Iterable[str] = ()
) -> dict[str, Any]:
    """Those settings that a model knows; dotted ones go by their first part.

    A model that takes any key gets those, too, that no model ``beside`` it knows. One without item
    vectors cannot have the history term. A preset is for the models that have it, if one does.
    """
    from recbole_edt.evaluation.vectors import has_vectors

    config = _default_config(model, dataset)
    known, claimed = config.known_keys(), _known_keys(beside, dataset)

    def is_for_it(key: str) -> bool:
        if key == "history_weight" and not has_vectors(config.model_class):
            return False
        if key == "preset" and not _has_preset(model, given[key], dataset):
            return not any(_has_preset(other, given[key], dataset) for other in beside)
        first = key.split(".")[0]
        return first in known or (config.takes_any_key and first not in claimed)

    return {key: value for key, value in given.items() if is_for_it(key)}


def refuse_unknown(given: Iterable[str], models: Iterable[str], dataset: str) -> None:
    """Raise a ConfigError for a setting that none of the models knows, or that is no user's."""
    models = list(models)
    for key in given:
        if key in _OF_THE_COMMAND:
            raise ConfigError(f"{key} is set for every run by this command: see its --help")
    if any(_default_config(model, dataset).takes_any_key for model in models):
        return  # the run tells whether its model reads it
    known = _known_keys(models, dataset)
    for key in given:
        if key.split(".")[0] not in known:
            raise ConfigError(f"unknown key '{key}'{nearest(key, known)}")
