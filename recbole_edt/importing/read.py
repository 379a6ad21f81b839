"""Files of one's own as tables: delimited text, JSON, Parquet, and RecBole's atomic files."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import pandas as pd
from tqdm import tqdm

from recbole_edt.errors import ConfigError, DataError, DependencyError
from recbole_edt.importing.settings import ImportCommand
from recbole_edt.importing.tables import Table, find_column

_TEXT = {".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".item"}
_JSON = {".json", ".jsonl", ".ndjson"}
_PARQUET = {".parquet", ".pq"}
_OPEN: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_ATOMIC = {"token", "token_seq", "float", "float_seq"}


def read_tables(arguments: Sequence[str], options: ImportCommand) -> list[Table]:
    """Read all files.

    Parameters
    ----------
    arguments : sequence of str
        Files and folders, each as ``PATH`` or ``DOMAIN=PATH``. Of a folder of RecBole, ``.inter``
        and ``.item`` are read; of another folder, all files that can be.

    Raises
    ------
    ConfigError, DataError
        If a path does not exist, or a file cannot be read.
    """
    tables = []
    for argument in arguments:
        domain, path = None, Path(argument)
        if not path.exists() and "=" in argument:
            domain, _, name = argument.partition("=")
            path = Path(name)
        if not path.exists():
            raise ConfigError(f"{path} does not exist (files are FILE or DOMAIN=FILE)")
        for file in tqdm(_files(path), desc=f"read {path.name}", unit="file", disable=None):
            source = path.name if path.is_dir() else _stem(path)
            tables.append(Table(str(file), source, domain, _read(file, options)))
    if options.columns and not any(list(options.columns) == list(table.frame) for table in tables):
        raise ConfigError("--columns is for files without a header line, and these have one")
    return tables


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.iterdir()) if _kind(file) and file.name[0] not in "._"]
    atomic = [file for file in files if _kind(file) in (".inter", ".item")]
    if not files:
        raise DataError(f"{path} holds no file of a kind that can be read: {_kinds()}")
    if atomic and not any(_kind(file) == ".inter" for file in atomic):
        raise DataError(f"{path} holds items, but no .inter with rows of users")
    return atomic or files


def _kind(path: Path) -> str:
    """Suffix that says how a file is read; empty for any other."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _OPEN:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _TEXT | _JSON | _PARQUET else ""


def _kinds() -> str:
    return ", ".join(sorted(_TEXT | _JSON | _PARQUET)) + f", packed as {', '.join(_OPEN)}"


def _stem(path: Path) -> str:
    kind = _kind(path)
    return path.name[: path.name.lower().rindex(kind)] if kind else path.stem


def _read(path: Path, options: ImportCommand) -> pd.DataFrame:
    """Read one file; values of delimited text are text."""
    kind = _kind(path)
    if not kind:
        raise ConfigError(f"{path} is of no kind that can be read: {_kinds()}")
    try:
        if kind in _PARQUET:
            frame = _read_parquet(path)
        elif kind in _JSON:
            frame = _read_json(path, options)
        else:
            frame = _read_text(path, options)
    except UnicodeError as error:
        other = "latin-1" if "1252" in options.encoding else "cp1252"
        raise DataError(
            f"{path} is not {options.encoding} text: name its encoding, such as --encoding={other}"
        ) from error
    except LookupError as error:
        raise ConfigError(f"encoding '{options.encoding}' is not known") from error
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} is a damaged {path.suffix} file: {error}") from error
    if frame.empty:
        raise DataError(f"{path} has no rows")
    return frame


def _open(path: Path, options: ImportCommand) -> IO[str]:
    encoding = "utf-8-sig" if options.encoding.lower() in ("utf-8", "utf8") else options.encoding
    return _OPEN.get(path.suffix.lower(), open)(path, "rt", encoding=encoding, newline="")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ImportError as error:
        raise DependencyError(
            f"reading {path} needs pyarrow: pip install 'recbole-edt[parquet]'"
        ) from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is no whole Parquet file: {_first_line(error)}") from error


def _read_json(path: Path, options: ImportCommand) -> pd.DataFrame:
    """Read JSON objects, one a line or in one list."""
    records: list[Any] = []
    with _open(path, options) as file:
        start = file.read(1)
        if start == "[":
            try:
                records = json.loads(start + file.read())
            except ValueError as error:
                raise DataError(f"{path} is no whole JSON list: {_first_line(error)}") from error
        else:
            for number, line in enumerate(file, start=1):
                text = start + line if number == 1 else line
                if text.isspace():
                    continue
                try:
                    records.append(json.loads(text))
                except ValueError as error:
                    raise DataError(f"{path}: line {number} is no JSON object") from error
    if not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path} holds other JSON than objects")
    return pd.DataFrame(records, dtype=object)


def _read_text(path: Path, options: ImportCommand) -> pd.DataFrame:
    """Read delimited text; atomic files literally, others with quotation marks around values."""
    with _open(path, options) as file:
        header = file.readline()
    atomic = any(name != _without_type(name) for name in header.rstrip("\r\n").split("\t"))
    separator = "\t" if atomic else max("\t,;|", key=header.count)
    form: dict[str, Any] = {"sep": separator, "index_col": False}
    form["quoting"] = csv.QUOTE_NONE if atomic else csv.QUOTE_MINIMAL
    names = next(csv.reader([header], delimiter=separator), [])
    known = (*options.user, *options.item, "id")
    if options.columns and find_column(names, known) is None:
        form |= {"names": list(options.columns), "header": None}
    try:
        with _open(path, options) as file, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(file, dtype=str, keep_default_na=False, **form)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(f"{path}: {_first_line(error)}") from error
    if atomic:
        frame.columns = [_without_type(column) for column in frame.columns]
    return frame.loc[:, ~frame.columns.str.fullmatch(r"Unnamed: \d+")]  # an index written by pandas


def _without_type(column: str) -> str:
    name, _, ftype = column.rpartition(":")
    return name if ftype in _ATOMIC else column


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
