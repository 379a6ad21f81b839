"""Log files and screen messages, set up per run."""

from __future__ import annotations

import errno
import logging
import sys
import threading
from collections.abc import Iterable
from typing import Any

from recbole.utils import init_logger

from recbole_edt.distributed import rank
from recbole_edt.errors import ConfigError

FILE_ONLY = {"file_only": True}  # `extra=` of messages for the log file only
_ours: list[logging.Handler] = []
_resting: list[logging.Handler] = []  # of an earlier run of RecBole's own pipeline


class _Quiet(logging.LoggerAdapter):
    """Sends all but warnings to the file alone."""

    def log(self, level, msg, *args, **kwargs):
        if level >= logging.WARNING:
            self.logger.log(level, msg, *args, **kwargs)
        else:
            super().log(level, msg, *args, **kwargs)


def quiet(logger: logging.Logger) -> Any:
    """Return what logs to the file alone, where there is one; else the logger itself."""
    return _Quiet(logger, FILE_ONLY) if _ours else logger


def _raise_again(record: logging.LogRecord) -> None:
    """End the run if its log cannot be written, as on a full disk."""
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        raise error


def _tell_once(args, tell=threading.excepthook) -> None:
    """Silence errors of tensorboard's writer thread; the main thread's next call raises them."""
    if not (isinstance(args.exc_value, OSError) and "AsyncWriter" in type(args.thread).__name__):
        tell(args)


def by_domain(values: Iterable[float], domains: Iterable[str]) -> str:
    """Write one value for each domain: ``0.5 (cloth), 1 (sport)``."""
    return ", ".join(f"{value:g} ({name})" for value, name in zip(values, domains, strict=True))


def close_log() -> None:
    """End the log of a run: later messages belong to no run, or to the next one."""
    for handler in _ours:
        logging.getLogger().removeHandler(handler)
        handler.close()
    _ours.clear()
    logging.getLogger().handlers += _resting
    _resting.clear()


def open_log(config) -> None:
    """Send messages to a log file of this run; only the first of several processes has one.

    RecBole's ``init_logger`` adds handlers only if there are none, so that later runs of a process
    would write into the log file and the tensorboard folder of the first. Those that it has added
    rest until this log ends.
    """
    if rank():
        logging.getLogger().setLevel(logging.ERROR)
        return
    close_log()
    root = logging.getLogger()
    others, root.handlers = root.handlers, []
    try:
        init_logger(config)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES):
            raise ConfigError(
                f"there is no place for log/ and log_tensorboard/ ({error}): start the run in a "
                "folder that can be written"
            ) from error
        raise
    finally:
        _ours[:] = root.handlers
        formats = [handler.formatter._fmt for handler in _ours if handler.formatter]
        _resting[:] = [h for h in others if h.formatter and h.formatter._fmt in formats]
        others = [handler for handler in others if handler not in _resting]
        root.handlers = _ours + others  # RecBole names the curves after the first log file
    threading.excepthook = _tell_once
    for handler in _ours:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _raise_again  # type: ignore[method-assign]
        else:
            handler.addFilter(lambda record: not getattr(record, "file_only", False))
