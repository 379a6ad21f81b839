"""The real commands, each in a process of its own that starts within milliseconds.

``Commands`` forks them off a server that has done the imports: each runs ``run_recbole_edt.py``, or
the console script, from its first line to its exit code, if need be in several processes. It can be
killed at any moment, and says in which phase it is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PHASES = [
    "anywhere else", "reading data", "making the model", "between epochs", "training, stage 1",
    "training, stage 2", "validation, stage 1", "validation, stage 2", "packing a checkpoint",
    "writing a checkpoint", "final test", "printing results", "writing results",
]  # fmt: skip
"""Where a run can be when it is killed."""

_WORDS = 1 + len(PHASES)  # shared by processes: the phase, and how often each was entered


_SERVER = multiprocessing.get_context("forkserver")
_IMPORTED = [
    "pytest", "recbole_edt", "torch._dynamo", "torch.onnx", "torch.utils.tensorboard",
    "recbole.model.sequential_recommender", "recbole_edt.cli", "recbole_edt.quick_start",
    "recbole_edt.augment.command", "recbole_edt.model.llmedt",
]  # fmt: skip


_STARTING = Lock()  # to start a process looks after all others, which is not for several threads


@dataclass
class Done:
    """How a command ended: ``code`` is negative for a signal that killed it."""

    code: int
    out: str
    err: str


class Commands:
    """Starts commands: use as a context manager."""

    def __enter__(self) -> Commands:
        self._aside = TemporaryDirectory()  # what is read of a command is no part of its folder
        _SERVER.set_forkserver_preload(_IMPORTED)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT))
            _SERVER.Process(target=int).start()  # which starts the server
        return self

    def __exit__(self, *_) -> None:
        self._aside.cleanup()

    def begin(
        self, folder: Path, arguments: list[str], limit: int | None = None, processes: int = 1
    ) -> Running:
        """Start ``run_recbole_edt.py`` (or ``recbole-edt`` if the first argument is a word).

        ``limit`` is the largest file it may write, in bytes.
        """
        aside = Path(self._aside.name)
        (aside / "phases").write_bytes(np.zeros(_WORDS, np.uint32).tobytes())
        for name in ("out", "err"):
            (aside / name).write_bytes(b"")
        words = [str(word) for word in arguments]
        process = _SERVER.Process(target=_be, args=(folder, aside, words, limit, processes))
        process.start()
        return Running(process, aside)

    def run(self, *arguments, **options) -> Done:
        """Run a command to its end; arguments as those of :meth:`begin`."""
        return self.begin(*arguments, **options).wait()


class ForkedPopen:
    """What an experiment needs of ``subprocess.Popen`` for its runs."""

    def __init__(self, command: list[str], *, cwd: Path, env: dict, stdout, **_) -> None:
        assert command[:3] == [sys.executable, "-m", "recbole_edt"]
        self._process = _SERVER.Process(
            target=_be_run, args=(Path(cwd), env, stdout.name, command[3:])
        )
        with _STARTING:
            self._process.start()

    def wait(self, timeout: float = 600) -> int:
        """Wait for its end; gives its exit code."""
        is_late = after(timeout)
        while not is_late():
            with _STARTING:
                self._process.join(0)
            if (code := self._process.exitcode) is not None:
                return code
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(self._process.name, timeout)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


class Running:
    """A command at work."""

    def __init__(self, process, aside: Path) -> None:
        self._process, self.pid, self._aside = process, process.pid, aside
        self._marks = np.memmap(aside / "phases", np.uint32, "r", shape=(_WORDS,))

    @property
    def phase(self) -> str:
        """Where it is, or was when it ended."""
        return PHASES[int(self._marks[0])]

    def entered(self, phase: str) -> int:
        """How often it has entered a phase."""
        return int(self._marks[1 + PHASES.index(phase)])

    def until(self, is_due: Callable[[], bool]) -> bool:
        """Wait until something is due; False if the command ended before."""
        while not is_due():
            time.sleep(0.0002)  # of two cores, one is the run's
            if not self._process.is_alive():
                return False
        return True

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def wait(self) -> Done:
        """Wait for its end."""
        self._process.join()
        texts = ((self._aside / name).read_text() for name in ("out", "err"))
        return Done(self._process.exitcode, *texts)


def after(seconds: float) -> Callable[[], bool]:
    """Whether this time has passed since now."""
    due = time.monotonic() + seconds
    return lambda: time.monotonic() >= due


# -- in the processes ------------------------------------------------------------------------------


def _watch(marks: np.ndarray) -> None:
    """Write down which phase the process is in."""
    from recbole_edt import quick_start
    from recbole_edt.trainer import CrossDomainMixin, checkpoint

    @contextmanager
    def inside(phase: str) -> Iterator[None]:
        number = PHASES.index(phase)
        before, marks[0] = marks[0], number
        marks[1 + number] += 1
        try:
            yield
        finally:
            marks[0] = before

    def wrap(owner, name: str, phase: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def wrapped(*given, **named):
            with inside(phase(*given)):
                return original(*given, **named)

        setattr(owner, name, wrapped)

    atomic_write = checkpoint.atomic_write

    @contextmanager
    def writing(path):
        with inside("writing a checkpoint"), atomic_write(path) as temporary:
            yield temporary

    checkpoint.atomic_write = writing
    wrap(quick_start, "make_model", lambda *_: "making the model")
    wrap(quick_start, "create_dataset", lambda *_: "reading data")
    wrap(CrossDomainMixin, "fit", lambda *_: "between epochs")
    wrap(CrossDomainMixin, "_train_epoch", lambda self, *_: f"training, stage {self.stage}")
    wrap(CrossDomainMixin, "_valid_epoch", lambda self, *_: f"validation, stage {self.stage}")
    wrap(checkpoint, "save", lambda *_: "packing a checkpoint")
    wrap(quick_start, "report", lambda *_: "final test")
    wrap(quick_start, "table", lambda *_: "printing results")
    wrap(quick_start, "write_json", lambda *_: "writing results")


def _launch(n: int) -> int | None:
    """Start the processes of a run as torchrun does; None in them, then their first failure."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(n):
        children.append(os.fork())
        if not children[-1]:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in place.items()})
            os.environ["MASTER_ADDR"] = "localhost"
            return None
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return max(codes)


def _be(*command) -> None:
    sys.exit(_run(*command))


def _be_run(folder: Path, environment: dict, log: str, arguments: list[str]) -> None:
    os.setsid()
    _print_to(log, log)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.exit(_command(arguments))


def _run(folder: Path, aside: Path, arguments: list[str], limit: int | None, processes: int) -> int:
    """Be the command; gives its exit code."""
    import resource

    _print_to(f"{aside}/out", f"{aside}/err")
    _watch(np.memmap(f"{aside}/phases", np.uint32, "r+", shape=(_WORDS,)))
    os.chdir(folder)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if processes > 1 and (code := _launch(processes)) is not None:
        return code
    return _command(arguments)


def _print_to(out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)


def _command(arguments: list[str]) -> int:
    import runpy
    import traceback

    from recbole_edt.signals import watch_imports

    script = arguments[0].startswith("--")
    sys.argv = ["run_recbole_edt.py" if script else "recbole-edt", *arguments]
    watch_imports()  # what the imports, done long ago, begin with
    try:
        if script:
            runpy.run_path(str(ROOT / "run_recbole_edt.py"), run_name="__main__")
        else:
            from recbole_edt.cli import main

            main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
