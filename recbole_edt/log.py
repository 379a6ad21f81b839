"""Where a run's messages go: RecBole's log file and the screen, anew for every run of a process."""

from __future__ import annotations

import logging
import sys
import threading

from recbole.utils import init_logger

from recbole_edt.distributed import rank

FILE_ONLY = {"file_only": True}
"""``extra=`` of a message that belongs into the log file but would flood the screen."""

_ours: list[logging.Handler] = []


def _raise_again(record: logging.LogRecord) -> None:
    """End the run where its log cannot be written, as on a full disk; logging would go on."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise error


def _tell_once(args, tell=threading.excepthook) -> None:
    """Keep quiet about tensorboard's writer: the next call of the main thread raises its error."""
    if not (isinstance(args.exc_value, OSError) and "AsyncWriter" in type(args.thread).__name__):
        tell(args)


def open_log(config) -> None:
    """Send messages to a log file of this run's own.

    RecBole's ``init_logger`` alone would let every later run of a process write into the log file
    and the tensorboard folder of the first. Of several processes the first alone has a log.
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
    for handler in others:  # with any handler there, `init_logger` would add none
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
