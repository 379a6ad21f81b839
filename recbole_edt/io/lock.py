"""One run at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_edt.errors import DataError


@contextmanager
def run_lock(folder: str | Path, file: str = "") -> Iterator[None]:
    """Keep other runs out of a folder, or away from one file in it, while the block lasts.

    The operating system holds the lock, so that a killed run leaves none. The folder is made if
    missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / (f".{file}.lock" if file else ".lock"), blocking=False):
            yield
    except Timeout as error:
        place = folder / file
        raise DataError(f"another run is using {place}: wait until it finishes") from error
