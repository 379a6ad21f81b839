"""The data contract of the atomic files: columns, lines, ids, flags and embeddings."""

from __future__ import annotations

import glob
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_edt.errors import DataError
from recbole_edt.io.files import file_sha256, read_table
from recbole_edt.io.times import PER_SECOND, SPAN, UNITS, unix_unit

REQUIRED = {
    "inter": ("user_id:token", "item_id:token", "timestamp:float"),
    "item": ("item_id:token", "domain:token"),
    "user": ("user_id:token",),
}

OPTIONAL = {
    "inter": ("position:float", "augmented:token"),
    "item": ("generated:token", "unsold:token"),
}
"""Further columns of the contract; ``augmented`` and ``generated`` are 1 for what was inserted,
``unsold`` for items that no raw row names."""

TYPES = ("token", "token_seq", "float", "float_seq")
"""RecBole's types of columns."""

LONGEST_TOKEN = 1000  # characters; the memory of an id table grows with its longest id
_LARGEST = 1e18  # larger entries of an embedding are damage: their square overflows float32
_COMPARED = 10_000  # rows of an embedding that are compared with each other, at most
_LEAST_DISTINCT = 0.1  # share of different ones among them
_LEAST_SPREAD = 1e-3  # their variance in parts of their mean square

OWN_FILES = "`recbole-edt import` makes a data set of files of your own"
BY_TIME = "no column 'position': rows are ordered by timestamp, ties in the order of the file"


def check_files(directory: str | Path, name: str) -> None:
    """Refuse a data set whose atomic files are missing, damaged or lack a required column."""
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(
            f"there is no dataset '{name}': the folder {directory} does not exist ({OWN_FILES})"
        )
    for suffix, required in REQUIRED.items():
        path = directory / f"{name}.{suffix}"
        if path.is_file():
            check_unchanged(path)
            _check_table(path, required, OPTIONAL.get(suffix, ()))
        elif suffix != "user":
            raise DataError(f"{path} is missing ({OWN_FILES})")


def file_digests(directory: str | Path, name: str) -> dict[str, str]:
    """Hexadecimal sha256 of each atomic file of a data set; embeddings are not among them."""
    paths = sorted(Path(directory).glob(f"{glob.escape(name)}.*"))
    return {path.name: file_sha256(path) for path in paths if path.suffix not in (".npy", ".json")}


def check_unchanged(path: Path) -> None:
    """Refuse a file unlike the checksum that ``augment`` or ``prepare`` recorded beside it."""
    folder = path.parent
    for report in (folder / "augmentation.json", folder / f"{folder.name}.statistics.json"):
        if not report.is_file():
            continue
        try:
            recorded = json.loads(report.read_text(encoding="utf-8"))
            digest = recorded.get("prepared", recorded).get("sha256", {}).get(path.name)
        except (ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"{report} is damaged: make the data again") from error
        if digest is not None and digest != file_sha256(path):
            raise DataError(
                f"{path} is damaged or was changed: its checksum is not the one in {report.name} "
                "(make the data again; if you changed it on purpose, remove its line there)"
            )


def _check_table(path: Path, required: Sequence[str], optional: Sequence[str]) -> None:
    """Check the text of an atomic file: UTF-8, a typed header, as many fields in every line."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} is not UTF-8 text (line {number})") from error
    if sign := re.search(rb"\0|\r(?!\n|\Z)", content):
        number = content.count(b"\n", 0, sign.start()) + 1
        what = "NUL byte" if sign[0] == b"\0" else "carriage return within a line"
        raise DataError(f"{path}: line {number} holds a {what}")
    lines, n_rows = io.BytesIO(content), 0
    header = next(lines, b"").decode("utf-8").rstrip("\r\n")
    columns = header.split("\t")
    if not header.strip():
        raise DataError(f"{path} is empty")
    for column in required:
        if column not in columns:
            shown = cut(", ".join(columns), 200)
            raise DataError(
                f"{path} has no column '{column}' (its columns: {shown}): `recbole-edt import "
                f"{path.parent} --dataset=NAME` makes a data set of it"
            )
    names = [column.rpartition(":")[0] for column in columns]
    for name in filter(None, names):
        if names.count(name) > 1:
            raise DataError(f"{path} has two columns '{cut(name, 200)}'")
    for column in optional:
        name = column.partition(":")[0]
        if name in names and column not in columns:
            raise DataError(f"{path}: column '{name}' must be '{column}'")
    for number, line in enumerate(lines, start=2):
        if not line.strip(b" \r\n"):
            continue
        n_rows += 1
        if (found := line.count(b"\t") + 1) != len(columns):
            raise DataError(f"{path}: line {number} has {found} fields, the header {len(columns)}")
    if not n_rows:
        raise DataError(f"{path} has no rows")


def cut(value: object, most: int = 80) -> str:
    """A value as messages quote it: on one line, and cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]}..."


def read_header(path: Path) -> list[str]:
    """Columns of an atomic file as its first line has them, ``name:type``; none without a file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.readline().rstrip("\r\n").split("\t")


def contract_columns(suffix: str) -> set[str]:
    """Names of the columns of an atomic file that the data contract gives a meaning."""
    columns = (*REQUIRED.get(suffix, ()), *OPTIONAL.get(suffix, ()))
    return {column.partition(":")[0] for column in columns}


def read_columns(path: str | Path, wanted: set[str] | None = None) -> dict[str, str]:
    """Names and types of the columns of an atomic file, restricted to ``wanted`` unless None.

    Raises
    ------
    DataError
        If a column is not of the form ``name:type`` with one of RecBole's four types.
    """
    columns = {}
    for column in read_header(Path(path)):
        name, _, ftype = column.rpartition(":")
        if not name or ftype not in TYPES:
            raise DataError(f"{path}: column '{cut(column, 200)}' is not of the form name:type")
        if wanted is None or name in wanted:
            columns[name] = ftype
    return columns


def check_tokens(frame: pd.DataFrame, column: str, file: str, unique: bool = True) -> None:
    """Refuse a column of ids or names with a missing, too long or (if ``unique``) repeated one."""
    _refuse_missing(frame, column, file)
    tokens = frame[column]
    longest = max(map(len, map(str, tokens.unique())), default=0)
    if longest > LONGEST_TOKEN:
        raise DataError(
            f"{file}: a {column} has {longest:,} characters, more than {LONGEST_TOKEN:,}"
        )
    if unique and (repeated := tokens[tokens.duplicated()]).size:
        raise DataError(
            f"{file}: {repeated.size} rows repeat an {column} (such as '{cut(repeated.iloc[0])}'): "
            "leave one row for each"
        )


def _refuse_missing(frame: pd.DataFrame, column: str, file: str) -> None:
    if len(rows := np.flatnonzero(frame[column].isna())):
        raise DataError(
            f"{file}: {len(rows)} rows have no {column} (the first is row {rows[0] + 1})"
        )


def find_no_number(path: str | Path, columns: Mapping[str, str]) -> str:
    """Name the first value of a float column (name -> type) that is no number; empty if none is."""
    table = read_table(Path(path))
    for name in (name for name, ftype in columns.items() if ftype == "float"):
        written = table[name].where(~table[name].isin(("", "nan", "NaN")), "0")
        if len(rows := np.flatnonzero(pd.to_numeric(written, errors="coerce").isna())):
            value = cut(written.iloc[rows[0]], 200)
            return f"row {rows[0] + 1} has '{value}' in {name}, which is no number (1.5, not 1,5)"
    return ""


def check_frames(inter: pd.DataFrame, item: pd.DataFrame, name: str) -> None:
    """Check the rows of ``.inter`` and ``.item``, ids not remapped, against the contract."""
    check_tokens(item, "item_id", f"{name}.item")
    check_tokens(item, "domain", f"{name}.item", unique=False)
    check_tokens(inter, "user_id", f"{name}.inter", unique=False)
    check_tokens(inter, "item_id", f"{name}.inter", unique=False)
    for column in ("timestamp", "position"):
        _refuse_missing(inter, column, f"{name}.inter")
        if len(rows := np.flatnonzero(~np.isfinite(inter[column]))):
            raise DataError(f"{name}.inter: a {column} is not finite (row {rows[0] + 1})")
    _check_unit(inter["timestamp"], f"{name}.inter")
    unlisted = ~inter["item_id"].isin(item["item_id"])
    if unlisted.any():
        example = cut(inter.loc[unlisted, "item_id"].iloc[0], 200)
        raise DataError(
            f"{name}.inter: {int(unlisted.sum())} rows name items that {name}.item does not list "
            f"(such as '{example}'): list them, or make the data again with `recbole-edt import`"
        )


def _check_unit(times: pd.Series, file: str) -> None:
    """Refuse times in several units: rows of one would all come before those of the other."""
    units = unix_unit(times)
    rows = np.flatnonzero((times / PER_SECOND[units]).between(*SPAN))
    found, first = np.unique(units[rows], return_index=True)
    if len(found) > 1:
        pairs = zip(found, rows[first], strict=True)
        told = " and ".join(f"{UNITS[unit]} (such as row {row + 1})" for unit, row in pairs)
        raise DataError(f"{file}: timestamp holds {told}: write all of them in one unit")


def derive_positions(inter: pd.DataFrame) -> bool:
    """Add a missing ``position``: by timestamp, ties in the order of the rows. Say whether."""
    if "position" in inter:
        return False
    inter["position"] = inter.groupby("user_id", observed=True)["timestamp"].rank(method="first")
    return True


def domain_names(item: pd.DataFrame, wanted: Sequence[str] | None, name: str) -> list[str]:
    """Names of the two domains: as ``wanted``, else in alphabetical order."""
    found = sorted(item["domain"].astype(str).unique())
    if len(found) != 2:
        shown = ", ".join(found[:5])
        raise DataError(
            f"{name}.item names {len(found)} domains ({shown}); exactly two are needed: "
            "`recbole-edt import --domains=A,B` chooses two of many"
        )
    if wanted is None:
        return found
    for domain in wanted:
        if domain not in found:
            raise DataError(f"unknown domain '{domain}': {name}.item has {' and '.join(found)}")
    if sorted(wanted) != found:
        raise DataError(f"'domains' must name both {' and '.join(found)}")
    return list(wanted)


def flag_column(frame: pd.DataFrame, column: str, name: str) -> np.ndarray:
    """Read a 0/1 token column as bool; all False where the column is absent."""
    if column not in frame:
        return np.zeros(len(frame), dtype=bool)
    values = frame[column].astype(str)
    if not values.isin(("0", "1")).all():
        raise DataError(f"{name}: column '{column}' holds values other than 0 and 1")
    return (values == "1").to_numpy()


def load_embeddings(path: Path, n_rows: int, what: str) -> np.ndarray:
    """Memory-map a float matrix of ``n_rows`` finite rows, the embeddings of the ``what``s."""
    if not path.is_file():
        wanted = f"it holds the {what} embeddings, which `recbole-edt augment` makes"
        ids = "; train without them by --item_embedding=id" if what == "item" else ""
        raise DataError(f"{path} is missing: {wanted}{ids}")
    check_unchanged(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy guesses at a header that it warns about
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except PermissionError:
        raise
    except Exception as error:  # a damaged header can raise anything
        raise DataError(f"{path} is damaged or is no .npy file") from error
    if not isinstance(matrix, np.memmap) or matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise DataError(f"{path} must hold a float matrix and nothing else")
    if matrix.offset + matrix.nbytes != path.stat().st_size:
        raise DataError(f"{path} is damaged: it holds more than its header says")
    if len(matrix) != n_rows:
        raise DataError(
            f"{path} has {len(matrix)} rows, but there are {n_rows} {what}s: make it again "
            "(`recbole-edt augment`)"
        )
    for part in np.array_split(matrix, len(matrix) // 65536 + 1):
        if not np.isfinite(part).all():
            raise DataError(f"{path} holds values that are not finite")
        if part.size and max(float(part.max()), -float(part.min())) > _LARGEST:
            raise DataError(f"{path} holds values beyond {_LARGEST:g}: it is damaged")
    return matrix


def compared(n: int) -> slice:
    """Which of ``n`` rows of an embedding are compared with each other."""
    return slice(None, None, n // _COMPARED + 1)


def how_alike(vectors: np.ndarray) -> str:
    """Say of embeddings [n, d_L] how alike they are; empty unless nearly all of them are."""
    rows = np.asarray(vectors, dtype=np.float64)
    n, distinct = len(rows), len({row.tobytes() for row in rows})
    spread = np.square(rows - rows.mean(axis=0)).sum() / max(np.square(rows).sum(), 1e-300)
    if n < 2 or (distinct >= max(2, _LEAST_DISTINCT * n) and spread >= _LEAST_SPREAD):
        return ""
    return (
        f"{distinct:,} of {n:,} embeddings are different, and their variance is {spread:.2%} of "
        "their mean square"
    )


def check_distinct(vectors: np.ndarray, what: str) -> None:
    """Refuse embeddings [n, d_L] that are nearly all alike: no model could tell the items apart.

    Of many rows a part is compared.
    """
    if said := how_alike(vectors[compared(len(vectors))]):
        raise DataError(
            f"{what}: {said}: give the items more text (`recbole-edt augment --text_columns=...`), "
            "or train without it (--item_embedding=id --augmentation=False)"
        )
