"""Atomic writes, digests, arrays and tables.

Tables are RecBole's atomic files: tab-separated with a typed header and no quoting.
"""

import csv
import glob
import hashlib
import json
import os
import pickle
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

try:
    import fcntl
except ImportError:  # no such locks on this system: files of killed runs stay
    fcntl = None  # type: ignore[assignment]

from recbole_edt.errors import ConfigError, DataError
from recbole_edt.settings import parse_yaml

INTER_COLUMNS = {"user_id": "token", "item_id": "token", "timestamp": "float", "position": "float"}
"""Columns of ``.inter`` and their types; augmentation adds ``augmented``."""

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

LSA_TEXTS = "lsa.txt"
"""Suffix of the texts, a line each, that the space of a data set's vectors was fitted to."""

LARGEST = 65_504
"""Largest number of float16, which vectors are stored as."""

LITERALLY: dict[str, Any] = {
    "sep": "\t", "index_col": False, "quoting": csv.QUOTE_NONE, "keep_default_na": False,
    "encoding": "utf-8-sig",
}  # fmt: skip
"""How pandas reads an atomic file: quotation marks and names such as "NA" mean nothing."""


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file."""
    return parse_yaml(Path(path).read_text(encoding="utf-8"))


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` that replaces it when the block ends well.

    If the block fails, ``path`` is unchanged and no temporary file is left. The temporary file of
    a killed run is removed by the next run that writes ``path``. The folder is made if missing. An
    OSError, such as that of a full disk, names ``path``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # known before it exists
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with temporary.open("xb") as lock:  # tells other processes that it is being written
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks, such as Lustre
                    fcntl.flock(lock, fcntl.LOCK_EX)
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


def _remove_abandoned(path: Path) -> None:
    """Remove temporary neighbours of a file that no process is writing any more."""
    for old in path.parent.glob(glob.escape(f".{path.name}.") + "[0-9a-f]" * 8 + ".tmp"):
        with suppress(OSError), old.open("rb") as handle:  # still being written, or gone
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                old.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_pickle(path: Path, value: Any) -> None:
    """Pickle a value into a file, whole or not at all."""
    content = pickle.dumps(value)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy``; an OSError has its reason, such as a full disk."""
    with path.open("wb") as file:
        target = SimpleNamespace(write=file.write)  # to a real file numpy writes in C, without it
        np.lib.format.write_array(target, np.asanyarray(array), allow_pickle=False)


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def value_sha256(value: Any) -> str:
    """Hexadecimal sha256 of a value that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_table(frame: pd.DataFrame, columns: Mapping[str, str], path: Path) -> None:
    """Write ``columns`` (name -> RecBole type) of a frame as an atomic file; floats to 0.01."""
    header = [f"{name}:{ftype}" for name, ftype in columns.items()]
    form = {"sep": "\t", "lineterminator": "\n", "quoting": csv.QUOTE_NONE, "float_format": "%.2f"}
    with atomic_write(path) as temporary:
        frame[list(columns)].to_csv(temporary, header=header, index=False, **form)


def read_table(path: Path) -> pd.DataFrame:
    """Read an atomic file: all values as strings (missing ones empty), columns without types."""
    if not path.is_file() or path.stat().st_size == 0:
        raise DataError(f"{path} is missing or empty.")
    frame = pd.read_csv(path, dtype=str, **LITERALLY)
    return frame.rename(columns=lambda column: str(column).split(":")[0])


def check_writable(key: str, path: str | Path) -> None:
    """Refuse a file that could not be written later; nothing is made yet.

    Raises
    ------
    ConfigError
        If the path is a folder, or its nearest existing parent takes no new file.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{key} {path} is a folder")
    folder = Path(path).absolute().parent
    while not os.path.exists(folder):
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{key} {path} cannot be written: {folder} takes no new file")
