"""Ctrl-C and SIGTERM end a command with one line, from its first import on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CALLED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""Signals that end a command, and the word it prints."""

_COMMANDS = ("recbole-edt", "recbole-edt.exe", "run_recbole_edt.py")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which unwinds the stack as Ctrl-C does."""


def line(number: int) -> str:
    """Return what a command prints when a signal ends it."""
    return f"{CALLED[signal.Signals(number)]}: the same command goes on (run: with --resume)"


def exit_code(number: int) -> int:
    """Return the exit code that shells use for a signal."""
    return 128 + number


def watch_imports() -> None:
    """End at once, with one line, while one of the package's own commands is being imported."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    is_ours = program in _COMMANDS or (program == "-m" and "recbole_edt" in sys.orig_argv)
    if not is_ours or threading.current_thread() is not threading.main_thread():
        return
    for number in CALLED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end_at_once)


def _end_at_once(number: int, frame) -> None:
    os.write(2, f"{line(number)}\n".encode())
    os._exit(exit_code(number))


def _terminate(number: int, frame) -> None:
    raise Terminated


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Raise :class:`Terminated` on SIGTERM, as Ctrl-C raises ``KeyboardInterrupt``."""
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in CALLED}
    raising = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _terminate}
    for number in CALLED:
        if before[number] in (_end_at_once, signal.SIG_DFL):
            signal.signal(number, raising[number])
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
