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
_COMMANDS = ("recbole-edt", "recbole-edt.exe", "run_recbole_edt.py")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which unwinds the stack as Ctrl-C does."""


def line(number: int) -> str:
    """Return what a command prints when a signal ends it."""
    return f"{CALLED[signal.Signals(number)]}: the same command goes on (run: with --resume)"


def watch_imports() -> None:
    """End with one line as long as one of the package's own commands is being imported."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    is_ours = program in _COMMANDS or (program == "-m" and "recbole_edt" in sys.orig_argv)
    if is_ours and threading.current_thread() is threading.main_thread():
        for number in CALLED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _end)


def _end(number: int, frame) -> None:
    os.write(2, f"{line(number)}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Raise :class:`Terminated` on SIGTERM, as Ctrl-C raises ``KeyboardInterrupt``."""
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in CALLED}
    for number, handler in before.items():
        if handler in (_end, signal.SIG_DFL):
            signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
