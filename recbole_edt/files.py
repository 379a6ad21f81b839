"""Files that are replaced in one step, and RecBole's atomic files among them.

Atomic files are tab-separated with a typed header and no quoting.
"""

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import pandas as pd

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
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` that takes its place when the block ends well.

    Killed or failed half-way, the block leaves what stood at ``path`` untouched.

    Parameters
    ----------
    path : str or Path
        The file to write; its folder is made if missing.

    Yields
    ------
    Path
        An empty file in the same folder, to be written by the block.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
        temporary = Path(handle.name)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    with replacing(path) as temporary:
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
        path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8"
    )
    return frame.rename(columns=lambda column: str(column).split(":")[0])
