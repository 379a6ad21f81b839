"""Trainings that comparisons and experiments share: each is done once, whoever asks for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_edt.config import EDTConfig
from recbole_edt.errors import ConfigError, DataError, TrainingError
from recbole_edt.io.paths import find_data_root
from recbole_edt.settings import nearest
from recbole_edt.trainer import checkpoint
from recbole_edt.trainer.trainer import run_file

_PARTS = (".inter", ".item", ".user", ".item_emb.npy", ".user_emb.npy")
_POLL = 0.2
"""Seconds between two looks at the running trainings."""


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes
    ----------
    model : str
        A model of the plugin, or a sequential one of RecBole.
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
        """Everything a run is told beside its model and data set."""
        return {"seed": self.seed, "data_path": str(self.data_path), **self.keys}


class RunStore:
    """Results of runs in one folder, by everything that decides them.

    Parameters
    ----------
    folder : Path
        Receives, per run, ``<name>.json`` (its results), ``<name>.npz`` (ranks), ``<name>.log``,
        and its best checkpoint in ``checkpoints/<data>/``: checkpoints are named by settings alone,
        and variants of a data set share these.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).absolute()
        self._names: dict[str, str] = {}
        self._fingerprints: dict[Path, str] = {}

    def checkpoints(self, run: Run) -> Path:
        """Folder of the checkpoints of all runs on the same data."""
        return self.folder / "checkpoints" / self._fingerprint(run.data_path / run.dataset)[:10]

    def name(self, run: Run) -> str:
        """Name of a run's files: model, seed and a hash of its settings and its data.

        Raises
        ------
        EDTError
            If the run's model, keys or data set are refused.
        """
        key = repr((run, sorted(run.keys.items(), key=str)))
        if key not in self._names:
            settings = checkpoint.settings(self._config(run))
            digest = checkpoint.digest([settings, self._fingerprint(run.data_path / run.dataset)])
            self._names[key] = f"{run.model}-{run.seed}-{digest}"
        return self._names[key]

    def _config(self, run: Run) -> EDTConfig:
        overrides = {**run.overrides(), "checkpoint_dir": str(self.checkpoints(run))}
        return EDTConfig(run.model, run.dataset, None, overrides)

    def _fingerprint(self, folder: Path) -> str:
        if folder not in self._fingerprints:
            if not (folder / f"{folder.name}.inter").is_file():
                raise DataError(f"there is no data set in {folder}")
            content = sha256()
            for part in _PARTS:
                path = folder / f"{folder.name}{part}"
                if path.is_file():
                    with path.open("rb") as file:
                        while block := file.read(1 << 22):
                            content.update(block)
                content.update(part.encode())
            self._fingerprints[folder] = content.hexdigest()
        return self._fingerprints[folder]

    def path(self, run: Run, suffix: str) -> Path:
        """One of a run's files."""
        return self.folder / f"{self.name(run)}{suffix}"

    def checkpoint(self, run: Run) -> Path:
        """Checkpoint of a run's best epoch."""
        return Path(run_file(self._config(run)))

    def results(self, run: Run) -> dict[str, Any] | None:
        """Return the content of a run's results file; None for a run that is not done."""
        try:
            return json.loads(self.path(run, ".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def ranks(self, run: Run) -> dict[str, np.ndarray]:
        """Return the rank of every user's target.

        Returns
        -------
        dict
            As :func:`~recbole_edt.evaluation.report.write_ranks` has it.

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
        places = {
            "result_file": self.path(run, ".json"),
            "ranks_file": self.path(run, ".npz"),
            "checkpoint_dir": self.checkpoints(run),
        }
        settings = {"threads": threads, **run.overrides(), **places}
        given = [f"--{key}={value}" for key, value in settings.items()]
        names = [f"--model={run.model}", f"--dataset={run.dataset}"]
        quiet = ["--resume", "--show_progress=False", "--state=ERROR"]
        return [sys.executable, "-m", "recbole_edt", "run", *names, *given, *quiet]

    def forget_unneeded(self, run: Run) -> None:
        """Delete what only an unfinished run needs: its last epoch and its first stage."""
        best = self.checkpoint(run)
        for part in (".last", ".stage1"):
            best.with_suffix(f"{part}.pth").unlink(missing_ok=True)


@dataclass
class _Job:
    """A run at work in a process of its own."""

    run: Run
    process: subprocess.Popen
    start: float


def execute(
    store: RunStore, runs: Sequence[Run], jobs: int | None = None, label: str = "runs"
) -> dict[str, str]:
    """Do all runs that are not done yet, several at a time.

    Parameters
    ----------
    store : RunStore
        Where results lie.
    runs : sequence of Run
        What is wanted; the same run may be named more than once.
    jobs : int, optional
        Processes at a time; by default one per two cores, or one where there is a GPU.
    label : str
        Head of the progress bar.

    Returns
    -------
    dict
        Name of each failed run -> its last line.
    """
    distinct = {store.name(run): run for run in runs}
    pending = [run for run in distinct.values() if store.results(run) is None]
    if not pending:
        return {}
    store.folder.mkdir(parents=True, exist_ok=True)
    jobs = min(jobs or default_jobs(), len(pending))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failures: dict[str, str] = {}
    with _progress(len(distinct), len(pending), label) as bar:
        for done in _work(store, pending, jobs, threads, bar):
            reason = _reason(store, done)
            if reason is None:
                store.forget_unneeded(done.run)
            else:
                failures[store.name(done.run)] = reason
            bar.update()
    return failures


def default_jobs() -> int:
    """Return how many trainings run at a time: they scale better side by side than over cores."""
    import torch

    return 1 if torch.cuda.is_available() else max(1, os.cpu_count() or 1)


@contextmanager
def _progress(total: int, pending: int, label: str) -> Iterator[tqdm]:
    with tqdm(
        total=total, initial=total - pending, desc=label, unit="run", dynamic_ncols=True
    ) as bar:
        yield bar


def _work(
    store: RunStore, pending: Iterable[Run], jobs: int, threads: int, bar: tqdm
) -> Iterator[_Job]:
    """Keep the processes busy; yield each that ended. Whatever ends this ends them too."""
    waiting = list(pending)[::-1]
    running: list[_Job] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_begin(store, waiting.pop(), threads))
                bar.set_postfix_str(", ".join(f"{j.run.model} {j.run.seed}" for j in running))
            ended = [job for job in running if job.process.poll() is not None]
            running = [job for job in running if job not in ended]
            yield from ended
            if not ended:
                sleep(_POLL)
    finally:
        for job in running:
            job.process.send_signal(signal.SIGINT)
        for job in running:
            _end(job.process)


def _end(process: subprocess.Popen) -> None:
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _begin(store: RunStore, run: Run, threads: int) -> _Job:
    # its own session, so that Ctrl-C reaches it once: from here, not from the terminal as well
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with store.path(run, ".log").open("wb") as log:
        process = subprocess.Popen(
            store.command(run, threads),
            cwd=store.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    return _Job(run, process, monotonic())


def _reason(store: RunStore, job: _Job) -> str | None:
    """Why a run failed, in one line; None for one that did not."""
    if job.process.returncode == 0 and store.results(job.run) is not None:
        return None
    lines = store.path(job.run, ".log").read_text(encoding="utf-8", errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.strip()), "")
    return said.removeprefix("error: ") or f"ended with exit code {job.process.returncode}"


def check_failures(failures: Mapping[str, str]) -> None:
    """Raise what the first of some failed runs said.

    Raises
    ------
    TrainingError
        If there is one.
    """
    if failures:
        name, reason = next(iter(failures.items()))
        more = f" ({len(failures) - 1} further runs failed, too)" if len(failures) > 1 else ""
        raise TrainingError(f"run {name} failed: {reason}{more}")


@cache
def known_keys(model: str, dataset: str) -> frozenset[str]:
    """Keys that a run of a model on a data set can be told."""
    return frozenset(EDTConfig(model, dataset).known_keys())


def keys_for(given: Mapping[str, Any], model: str, dataset: str) -> dict[str, Any]:
    """Those of some settings that a model knows; dotted ones go by their first part."""
    known = known_keys(model, dataset)
    return {key: value for key, value in given.items() if key.split(".")[0] in known}


def refuse_unknown(given: Iterable[str], models: Iterable[str], dataset: str) -> None:
    """Refuse settings that none of some models knows.

    Raises
    ------
    ConfigError
        Naming the first, and the nearest known one.
    """
    known = set().union(*(known_keys(model, dataset) for model in models))
    for key in given:
        if key.split(".")[0] not in known:
            raise ConfigError(f"unknown key '{key}'{nearest(key, known)}")


def take_dataset(given: dict[str, Any]) -> str:
    """Take the name of the data set out of arguments.

    Raises
    ------
    ConfigError
        If it is missing.
    """
    name = given.pop("dataset", None)
    if not isinstance(name, str):
        raise ConfigError("--dataset is missing")
    return name


def take_places(given: dict[str, Any], name: str) -> tuple[Path, Path]:
    """Take out of arguments where a data set's folder lies, and which folder receives its results.

    Returns
    -------
    data_path, folder : Path
        Absolute; ``<data_path>/<name>`` holds the data, ``folder`` is ``<output_path>/<name>``.
    """
    data_path = Path(str(given.pop("data_path", None) or find_data_root(name))).absolute()
    return data_path, Path(str(given.pop("output_path", "results"))).absolute() / name


def take_budget(given: dict[str, Any], default: float) -> float | None:
    """Take ``budget`` out of arguments: seconds of training, None for no limit.

    Raises
    ------
    ConfigError
        If it is no number of at least 0.
    """
    budget = given.pop("budget", default)
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or budget < 0:
        raise ConfigError(f"budget must be a number of seconds of at least 0, not '{budget}'")
    return budget or None


def take_jobs(given: dict[str, Any]) -> int | None:
    """Take ``jobs`` out of arguments: trainings at a time, None for as many as fit.

    Raises
    ------
    ConfigError
        If it is no whole number of at least 1.
    """
    jobs = given.pop("jobs", None)
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise ConfigError(f"jobs must be a whole number of at least 1, not '{jobs}'")
    return jobs


def parse_seeds(text: Any) -> list[int]:
    """Read ``42,44,46``.

    Raises
    ------
    ConfigError
        For anything that is not whole numbers.
    """
    parts = text if isinstance(text, (list, tuple)) else str(text).split(",")
    try:
        seeds = [int(str(part)) for part in parts]
    except ValueError as error:
        raise ConfigError(f"seeds must be whole numbers such as 42,44,46, not '{text}'") from error
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds must be different whole numbers of at least 0, not '{text}'")
    return seeds
