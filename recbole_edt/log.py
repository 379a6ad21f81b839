"""Where a run's messages go: RecBole's log file and the screen, anew for every run of a process."""

from __future__ import annotations

import logging

from recbole.utils import init_logger

from recbole_edt.distributed import process

FILE_ONLY = {"file_only": True}
"""``extra=`` of a message that belongs into the log file but would flood the screen."""

_ours: list[logging.Handler] = []


def open_log(config) -> None:
    """Send messages to a log file of this run's own.

    RecBole's ``init_logger`` alone would let every later run of a process write into the log file
    and the tensorboard folder of the first. Of several processes the first alone has a log.
    """
    if process():
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
    for handler in _ours:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: not getattr(record, "file_only", False))
