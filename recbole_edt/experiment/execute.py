"""Trainings in processes of their own, several at a time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock

from tqdm import tqdm

from recbole_edt.errors import TrainingError
from recbole_edt.experiment.runs import Run, RunStore


def execute(
    store: RunStore, runs: Sequence[Run], jobs: int | None = None, label: str = "runs"
) -> dict[str, str]:
    """Do all runs that are not done yet, each once and ``jobs`` at a time.

    Returns
    -------
    dict
        Name of each failed run -> its last line.
    """
    distinct = {store.name(run): run for run in runs}
    pending = {name: run for name, run in distinct.items() if store.results(run) is None}
    if not pending:
        return {}
    store.folder.mkdir(parents=True, exist_ok=True)
    jobs = min(jobs or default_jobs(), len(pending))
    workers = _Workers(store, max(1, (os.cpu_count() or 1) // jobs))
    done, failures = len(distinct) - len(pending), {}
    with (
        tqdm(total=len(distinct), initial=done, desc=label) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        futures = {pool.submit(workers.train, run): name for name, run in pending.items()}
        try:
            for future in as_completed(futures):
                name, reason = futures[future], future.result()
                if reason is None:
                    store.clean(pending[name])
                else:
                    failures[name] = reason
                bar.update()
        except BaseException:  # Ctrl-C, too: no training outlives its command
            pool.shutdown(wait=False, cancel_futures=True)
            workers.stop()
            raise
    return failures


def default_jobs() -> int:
    """Trainings at a time: they scale better side by side than over cores."""
    import torch

    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


class _Workers:
    """Processes at work."""

    def __init__(self, store: RunStore, threads: int) -> None:
        self.store, self.threads = store, threads
        self.running: set[subprocess.Popen] = set()
        self.stopped = False
        self.lock = Lock()

    def train(self, run: Run) -> str | None:
        """Do a run; return why it failed, or None."""
        with self.lock:
            if self.stopped:
                return "stopped"
            process = self._start(run)
            self.running.add(process)
        code = process.wait()
        self.running.discard(process)
        if code == 0 and self.store.results(run) is not None:
            return None
        lines = self.store.path(run, ".log").read_text("utf-8", "replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "")
        return said.removeprefix("error: ") or f"ended with exit code {code}"

    def _start(self, run: Run) -> subprocess.Popen:
        command = self.store.command(run, self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        # its own session, so that Ctrl-C reaches it once: from here, not from the terminal as well
        with self.store.path(run, ".log").open("wb") as log:
            return subprocess.Popen(
                command, cwd=self.store.folder, stdout=log, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True, env=environment,
            )  # fmt: skip

    def stop(self) -> None:
        """End all processes: they save their last epoch, or are killed after 20 seconds."""
        with self.lock:
            self.stopped = True
        running = list(self.running)
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def check_failures(failures: Mapping[str, str]) -> None:
    """Raise what the first failed run said.

    Raises
    ------
    TrainingError
        If a run failed.
    """
    for name, reason in failures.items():
        more = f" ({len(failures) - 1} further runs failed, too)" if len(failures) > 1 else ""
        raise TrainingError(f"run {name} failed: {reason}{more}")
