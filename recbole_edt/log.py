"""Log files and screen messages: every run of a process gets a log of its own."""

from __future__ import annotations

import logging
import sys
import threading

from recbole.utils import init_logger

from recbole_edt.distributed import rank

FILE_ONLY = {"file_only": True}
"""``extra=`` of a message that goes into the log file alone."""

_ours: list[logging.Handler] = []


def _raise_again(record: logging.LogRecord) -> None:
    """End the run if its log cannot be written, as on a full disk."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise error


def _tell_once(args, tell=threading.excepthook) -> None:
    """Ignore tensorboard's writer thread: the main thread raises its error at the next call."""
    if not (isinstance(args.exc_value, OSError) and "AsyncWriter" in type(args.thread).__name__):
        tell(args)


def open_log(config) -> None:
    """Send messages to a log file of this run's own; of several processes the first has one.

    RecBole's ``init_logger`` adds handlers only where there are none, so that later runs of a
    process would write into the log file and the tensorboard folder of the first.
    """
    if rank():
        logging.getLogger().setLevel(logging.ERROR)
        return
    root = logging.getLogger()
    while _ours:
        handler = _ours.pop()
        root.removeHandler(handler)
        handler.close()
    others = list(root.handlers)
    for handler in others:
        root.removeHandler(handler)
    try:
        init_logger(config)
    finally:
        _ours.extend(root.handlers)
        for handler in others:
            root.addHandler(handler)
    threading.excepthook = _tell_once
    for handler in _ours:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _raise_again  # type: ignore[method-assign]
        else:
            handler.addFilter(lambda record: not getattr(record, "file_only", False))
