"""How a run ends that is told to: Ctrl-C and SIGTERM, from the first import on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CALLED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""Signals that end a run cleanly, and what the run says then."""

_COMMANDS = ("recbole-edt", "recbole-edt.exe", "run_recbole_edt.py")


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run the way Ctrl-C does, so that whatever is open is closed."""


def line(number: int) -> str:
    """Say that a run was told to end, and how to go on."""
    return f"{CALLED[signal.Signals(number)]}: the same command goes on (run: with --resume)"


def exit_code(number: int) -> int:
    """Exit code by which shells know the signal that ended a command."""
    return 128 + number


def watch_imports() -> None:
    """End at once, with one line, while the command is still being imported.

    Does nothing where the package is imported by any other program.
    """
    started_by = Path(sys.argv[0]).name if sys.argv else ""
    as_module = started_by == "-m" and "recbole_edt" in sys.orig_argv
    if (started_by in _COMMANDS or as_module) and _may_handle():
        for number in CALLED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end_at_once)


def _may_handle() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end_at_once(number: int, frame) -> None:
    os.write(2, f"{line(number)}\n".encode())
    os._exit(exit_code(number))


def _terminate(number: int, frame) -> None:
    raise Terminated


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated`, as Ctrl-C raises ``KeyboardInterrupt``."""
    if not _may_handle():
        yield
        return
    before = {number: signal.getsignal(number) for number in CALLED}
    for number, raising in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, _terminate),
    ):
        if before[number] in (_end_at_once, signal.SIG_DFL):
            signal.signal(number, raising)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
