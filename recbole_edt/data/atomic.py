"""The data contract of the atomic files, checked before RecBole reads any meaning into them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_edt.errors import DataError

REQUIRED = {
    "inter": ("user_id:token", "item_id:token", "timestamp:float", "position:float"),
    "item": ("item_id:token", "domain:token"),
    "user": ("user_id:token",),
}


def check_files(directory: str | Path, name: str) -> None:
    """Check that the atomic files are there, are not empty and have the required columns.

    Raises
    ------
    DataError
        One sentence that names the file and what is wrong with it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"there is no dataset '{name}': the folder {directory} does not exist")
    for suffix, required in REQUIRED.items():
        path = directory / f"{name}.{suffix}"
        if not path.is_file():
            if suffix == "user":
                continue
            raise DataError(f"{path} is missing")
        _check_header(path, required)


def _check_header(path: Path, required: Sequence[str]) -> None:
    try:
        with path.open(encoding="utf-8") as file:
            header, first = file.readline(), file.readline()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error
    if not header.strip():
        raise DataError(f"{path} is empty")
    columns = header.rstrip("\r\n").split("\t")
    for column in required:
        if column not in columns:
            raise DataError(f"{path} has no column '{column}' (its columns: {', '.join(columns)})")
    if not first.strip():
        raise DataError(f"{path} has no rows")


def read_columns(path: str | Path, wanted: set[str] | None) -> list[tuple[str, str]]:
    """Names and types of the columns of an atomic file, restricted to ``wanted`` unless None.

    Raises
    ------
    DataError
        If a column is not of the form ``name:type`` with one of RecBole's four types, or a wanted
        name stands twice.
    """
    with Path(path).open(encoding="utf-8") as file:
        header = file.readline().rstrip("\r\n").split("\t")
    columns: list[tuple[str, str]] = []
    for column in header:
        name, _, ftype = column.rpartition(":")
        if not name or ftype not in ("token", "float", "token_seq", "float_seq"):
            raise DataError(f"{path}: column '{column}' is not of the form name:type")
        if any(name == known for known, _ in columns):
            raise DataError(f"{path} has two columns '{name}'")
        if wanted is None or name in wanted:
            columns.append((name, ftype))
    return columns


def check_frames(inter: pd.DataFrame, item: pd.DataFrame, item_lines: int, name: str) -> None:
    """Check the rows of ``.inter`` and ``.item`` against the contract.

    Parameters
    ----------
    inter, item : pd.DataFrame
        As RecBole read them, before any id was remapped.
    item_lines : int
        Lines of ``.item`` below the header; more than ``len(item)`` means repeated items.

    Raises
    ------
    DataError
        For missing values, unlisted items, repeated items or a wrong number of domains.
    """
    for column in ("user_id", "item_id", "timestamp", "position"):
        missing = int(inter[column].isna().sum())
        if missing:
            raise DataError(f"{name}.inter: {missing} rows have no {column}")
        if column in ("timestamp", "position") and not np.isfinite(inter[column]).all():
            raise DataError(f"{name}.inter: a {column} is not finite")
    if item["item_id"].isna().any() or item["domain"].isna().any():
        raise DataError(f"{name}.item: a row has no item_id or no domain")
    if item_lines != len(item):
        raise DataError(f"{name}.item: {item_lines - len(item)} rows repeat an item_id")
    unlisted = ~inter["item_id"].isin(item["item_id"])
    if unlisted.any():
        example = inter.loc[unlisted, "item_id"].iloc[0]
        raise DataError(
            f"{name}.inter: {int(unlisted.sum())} rows name items that {name}.item does not list "
            f"(such as '{example}')"
        )


def domain_names(item: pd.DataFrame, wanted: Sequence[str] | None, name: str) -> list[str]:
    """Names of the two domains: as configured, else in alphabetical order.

    Raises
    ------
    DataError
        If the items have not exactly two domains, or not the configured ones.
    """
    found = sorted(item["domain"].astype(str).unique())
    if len(found) != 2:
        shown = ", ".join(found[:5])
        raise DataError(f"{name}.item names {len(found)} domains ({shown}); exactly two are needed")
    if wanted is None:
        return found
    for domain in wanted:
        if domain not in found:
            raise DataError(f"unknown domain '{domain}': {name}.item has {' and '.join(found)}")
    if sorted(wanted) != found:
        raise DataError(f"'domains' must name both {' and '.join(found)}")
    return list(wanted)


def flag_column(frame: pd.DataFrame, column: str, name: str) -> np.ndarray:
    """Read a 0/1 token column as bool; all False where the column is absent.

    Raises
    ------
    DataError
        For any value other than 0 and 1.
    """
    if column not in frame:
        return np.zeros(len(frame), dtype=bool)
    values = frame[column].astype("category").cat
    texts = values.categories.astype(str).to_numpy()
    codes = values.codes.to_numpy()
    if (codes < 0).any() or not np.isin(texts[np.unique(codes)], ("0", "1")).all():
        raise DataError(f"{name}: column '{column}' holds values other than 0 and 1")
    return (texts == "1")[codes]


def load_embeddings(path: Path, n_rows: int, what: str) -> np.ndarray:
    """Memory-map an embedding file: one row per line of the file it belongs to.

    Raises
    ------
    DataError
        If the file is missing or damaged, is not a float matrix, has another number of rows, or
        holds a value that is not finite.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: it holds the {what} embeddings")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is damaged or is no .npy file") from error
    if not isinstance(matrix, np.ndarray):
        raise DataError(f"{path} is an archive of arrays, not one .npy array")
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise DataError(f"{path} must hold a float matrix, not {matrix.dtype} {matrix.shape}")
    if len(matrix) != n_rows:
        raise DataError(f"{path} has {len(matrix)} rows, but there are {n_rows} {what}s")
    for start in range(0, len(matrix), 65536):
        if not np.isfinite(matrix[start : start + 65536]).all():
            raise DataError(f"{path} holds values that are not finite")
    return matrix
