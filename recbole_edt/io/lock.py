"""One run at a time in a folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_edt.errors import DataError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def run_lock(folder: str | Path, file: str = "") -> Iterator[None]:
    """Keep other runs out of a folder, or away from one file in it, while the block lasts.

    The operating system holds the lock, so that a killed run leaves none. The folder is made if
    missing. A file system without locks, such as Lustre and some NFS, keeps no run out.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / (f".{file}.lock" if file else ".lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        place = folder / file
        raise DataError(f"another run is using {place}: wait until it finishes") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()
