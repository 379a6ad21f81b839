"""Files that are replaced in one step, and RecBole's atomic files among them.

Atomic files are tab-separated with a typed header and no quoting.
"""

import csv
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

try:
    import fcntl
except ImportError:  # no such locks on this system: what killed runs left there stays
    fcntl = None  # type: ignore[assignment]

from recbole_edt.errors import DataError

INTER_COLUMNS = {
    "user_id": "token",
    "item_id": "token",
    "timestamp": "float",
    "position": "float",
}
"""Columns of ``.inter`` and their types (specification, section 2); augmentation adds one."""

ITEM_COLUMNS = {
    "item_id": "token",
    "domain": "token",
    "title": "token_seq",
    "brand": "token_seq",
    "price": "float",
    "categories": "token_seq",
    "description": "token_seq",
    "generated": "token",
}
"""Columns of ``.item`` as the project writes them."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` that takes its place when the block ends well.

    Failed or interrupted half-way, the block leaves what stood at ``path`` and nothing else; what
    a run leaves that is killed outright is removed by the next one that writes the same file.

    Parameters
    ----------
    path : str or Path
        The file to write; its folder is made if missing.

    Yields
    ------
    Path
        An empty file in the same folder, to be written by the block.

    Raises
    ------
    OSError
        If the file cannot be written, as on a full disk; it names ``path``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # known before it exists
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with _locked(temporary):
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(temporary: Path) -> Iterator[None]:
    """Make a file and hold a lock on it: as long as it is held, somebody is writing the file."""
    while True:
        with temporary.open("xb") as handle:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not temporary.exists():  # taken for abandoned before it was locked
                continue
            yield
            return


def _remove_abandoned(path: Path) -> None:
    """Remove temporary neighbours of a file that no process is writing any more."""
    if fcntl is None:
        return
    ours = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.tmp")
    for entry in os.scandir(path.parent):
        if not ours.fullmatch(entry.name):
            continue
        try:
            with open(entry.path, "rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)
        except OSError:  # still being written, or gone
            continue


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy``.

    Raises
    ------
    OSError
        With the reason, such as a full disk, which NumPy's own way of writing a file loses.
    """
    with path.open("wb") as file:
        np.lib.format.write_array(_Writer(file.write), np.asanyarray(array), allow_pickle=False)


class _Writer:
    """A file in disguise: NumPy writes to what it knows to be a file by C, without its errors."""

    def __init__(self, write) -> None:
        self.write = write


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_table(frame: pd.DataFrame, columns: Mapping[str, str], path: Path) -> None:
    """Write a frame as an atomic file; floats get two decimals, so that the bytes are fixed.

    Parameters
    ----------
    frame : DataFrame
        Must hold every column named in ``columns``.
    columns : mapping
        Column name -> RecBole type (``token``, ``token_seq``, ``float``), in file order.
    path : Path
        The file to replace.
    """
    typed = frame[list(columns)].rename(
        columns={name: f"{name}:{t}" for name, t in columns.items()}
    )
    with atomic_write(path) as temporary:
        typed.to_csv(
            temporary,
            sep="\t",
            index=False,
            encoding="utf-8",
            lineterminator="\n",
            float_format="%.2f",
            quoting=csv.QUOTE_NONE,
        )


def read_table(path: Path) -> pd.DataFrame:
    """Read an atomic file as text.

    Parameters
    ----------
    path : Path
        A ``.inter``, ``.item`` or ``.user`` file.

    Returns
    -------
    DataFrame
        All values as strings (missing ones are empty), columns without their types.

    Raises
    ------
    DataError
        If the file is missing or empty.
    """
    if not path.is_file() or path.stat().st_size == 0:
        raise DataError(f"{path} is missing or empty.")
    frame = pd.read_csv(
        path,
        sep="\t",
        dtype=str,
        index_col=False,
        keep_default_na=False,
        quoting=csv.QUOTE_NONE,
        encoding="utf-8-sig",
    )
    return frame.rename(columns=lambda column: str(column).split(":")[0])
