"""One run at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_edt.errors import DataError


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Keep other runs out of a folder while the block lasts.

    The operating system holds the lock, so that a killed run leaves none. The folder is made if
    missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise DataError(f"another run is using {folder}: wait until it finishes") from error
