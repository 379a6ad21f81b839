"""Files of one's own as tables: delimited text, JSON, Parquet, and RecBole's atomic files."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from recbole_edt.errors import ConfigError, DataError, DependencyError
from recbole_edt.importing.settings import ImportCommand
from recbole_edt.importing.tables import Table, find_column
from recbole_edt.io.atomic import TYPES, cut
from recbole_edt.prepare.records import Malformed, parse_metadata
from recbole_edt.settings import expand_home

_TEXT = {".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".item"}
_JSON = {".json", ".jsonl", ".ndjson"}
_PARQUET = {".parquet", ".pq"}
_SUFFIXES = {".gz", ".bz2", ".xz"}
_KINDS = (
    f"{', '.join(sorted(_TEXT | _JSON | _PARQUET))}, packed as {', '.join(sorted(_SUFFIXES))}; "
    "unpack archives, and give import_frames what pandas reads (docs/data.md)"
)
_PACKED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\0": lzma.decompress}
_SHEET = "spreadsheet or a zip archive: save the sheet as CSV, or unpack it"
_NO_TABLE = {  # by the first bytes
    b"PK\x03\x04": _SHEET,  # zip, which .xlsx is
    b"\xd0\xcf\x11\xe0": _SHEET,  # .xls
    b"version https://git-lfs": "pointer to a file: `git lfs pull` fetches it",
    b"<!DOCTYPE": "web page: download the file anew",
}
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# how quotation marks are meant: in the words of pandas and of the csv module
_LITERAL: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
_QUOTED: dict[str, Any] = {"skipinitialspace": True}
_ESCAPED: dict[str, Any] = {"skipinitialspace": True, "escapechar": "\\"}
_VALUE = re.compile(r"[^\s,].*")  # the rest of a line, from where a value of JSON may begin
_DECODER = json.JSONDecoder()


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
        domain, name = None, argument
        if not Path(expand_home(argument)).exists() and "=" in argument:
            domain, _, name = argument.partition("=")
        path = Path(expand_home(name))
        if not (name and path.exists()):
            raise ConfigError(f"{name or argument} does not exist (files are FILE or DOMAIN=FILE)")
        for file in tqdm(_files(path), desc=f"read {path.name}", unit="file", disable=None):
            source = path.name if path.is_dir() else _stem(path)
            table = Table(str(file), source, domain, _read(file, options))
            _leave_out_made(table)
            tables.append(table)
    if options.columns and not any(list(options.columns) == list(table.frame) for table in tables):
        raise ConfigError("--columns is for files without a header line, and these have one")
    return tables


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and _kind(file)]
    files = [file for file in files if file.name[0] not in "._"]
    atomic = [file for file in files if _kind(file) in (".inter", ".item")]
    if not files:
        raise DataError(f"{path} holds no file of a kind that can be read: {_KINDS}")
    if atomic and not any(_kind(file) == ".inter" for file in atomic):
        raise DataError(f"{path} holds items, but no .inter with rows of users")
    return atomic or files


def _leave_out_made(table: Table) -> None:
    """Leave out what ``augment`` has added to an atomic file: a generated item is no target."""
    for column in {"augmented", "generated"} & set(table.frame):
        made = table.frame[column] == "1"
        if _kind(Path(table.name)) in (".inter", ".item") and made.any():
            table.frame = table.frame[~made]
            table.notes.append(f"{made.sum():,} rows that augment added are left out")


def _kind(path: Path) -> str:
    """Suffix that says how a file is read; empty for any other."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _TEXT | _JSON | _PARQUET else ""


def _stem(path: Path) -> str:
    kind = _kind(path)
    return path.name[: path.name.lower().rindex(kind)] if kind else path.stem


def _read(path: Path, options: ImportCommand) -> pd.DataFrame:
    """Read one file; values of delimited text are text."""
    kind = _kind(path)
    if not kind:
        raise ConfigError(f"{path} is of no kind that can be read: {_KINDS}")
    if kind in _PARQUET:
        frame = _read_parquet(path)
    else:
        frame = (_read_json if kind in _JSON else _read_text)(path, options)
    if frame.empty:
        raise DataError(f"{path} has no rows")
    return frame


def _text(path: Path, options: ImportCommand) -> str:
    """Content of a plain or packed file; what it is, its first bytes say."""
    content = path.read_bytes()
    for magic, unpack in _PACKED.items():
        if content.startswith(magic):
            try:
                content = unpack(content)
            except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
                raise DataError(f"{path} is a damaged {path.suffix} file: {error}") from error
            break
    for magic, what in _NO_TABLE.items():
        if content.startswith(magic):
            raise DataError(f"{path} is a {what}")
    marked = [name for mark, name in _MARKS.items() if content.startswith(mark)]
    if "encoding" not in options.model_fields_set:  # UTF-16 without a mark
        for first, name in enumerate(("utf-16-be", "utf-16-le")):
            half = content[first:1000:2]  # that is 0 in all letters from a to z
            marked += [name] * (half.count(0) * 2 > len(half))
    try:
        return content.decode(next(iter(marked), options.encoding))
    except UnicodeError as error:
        other = "latin-1" if "1252" in options.encoding else "cp1252"
        raise DataError(
            f"{path} is not {options.encoding} text: name its encoding, such as --encoding={other} "
            "(gb18030 for Chinese, cp932 for Japanese)"
        ) from error
    except LookupError as error:
        raise ConfigError(f"encoding '{options.encoding}' is not known") from error


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
    """Read objects of JSON in any lists and lines, or a Python literal on each line."""
    text, records, end = _text(path, options), [], 0
    while found := _VALUE.search(text, end):
        line = found[0].rstrip(" ,\r") if found[0].startswith("{") else ""
        try:
            value, end = parse_metadata(line.encode()), found.end()
        except Malformed:  # goes on in other lines, or is no object
            try:
                value, end = _DECODER.raw_decode(text, found.start())
            except (ValueError, RecursionError) as error:
                number = text.count("\n", 0, found.start()) + 1
                raise DataError(
                    f"{path}: line {number} is no whole JSON object or list (is the file cut off?)"
                ) from error
        records += value if isinstance(value, list) else [value]
    if not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path} holds other JSON than objects: an object for each row is needed")
    if len(records) == 1:
        try:
            frame = _from_columns(records[0], options)
        except ValueError as error:
            raise DataError(f"{path} has columns or rows of different lengths") from error
        if frame is not None:
            return frame
        lists = [one for one in records[0].values() if isinstance(one, list) and len(one)]
        lists = [one for one in lists if all(isinstance(record, dict) for record in one)]
        records = lists[0] if len(lists) == 1 else records
    return pd.DataFrame(records, dtype=object)


def _from_columns(record: dict[str, Any], options: ImportCommand) -> pd.DataFrame | None:
    """Make a table of an object as pandas writes a whole one, in any orient; None if it is none."""
    columns, rows, values = record.get("columns"), record.get("data"), [*record.values()]
    if _all(str, columns) and _all(list, rows):
        return pd.DataFrame(rows, columns=columns, dtype=object)
    if _all(list, values) and not any(_all(dict, value) for value in values):
        return pd.DataFrame(record, dtype=object)
    if not _all(dict, values):
        return None
    alike = all(value.keys() == values[0].keys() for value in values)
    if alike and ("0" in values[0] or _names_a_key(record, options)):
        return pd.DataFrame(record, dtype=object)
    if "0" in record or _names_a_key(values[0], options):
        return pd.DataFrame(values, dtype=object)
    return None


def _all(kind: type, values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, kind) for v in values)


def _names_a_key(names: Iterable[str], options: ImportCommand) -> bool:
    """Whether names of columns have one of users or items."""
    return find_column(names, (*options.user, *options.item, "id")) is not None


def _read_text(path: Path, options: ImportCommand) -> pd.DataFrame:
    """Read delimited text: atomic files literally, in others values may be quoted."""
    text, separator = _text(path, options).lstrip("\r\n"), ""
    if named := re.match(r"sep=(.)\r?\n", text):  # as Excel writes
        separator, text = named[1], text[named.end() :]
    text = text[_header_at(text, options) :]
    if not text:
        raise DataError(f"{path} is empty")
    header, *_ = re.split("[\r\n]", text, maxsplit=1)
    if header.count("::") > 1 and "\t" not in text:  # as MovieLens has it
        text, header = text.replace("::", "\t"), header.replace("::", "\t")
    separator = separator or max("\t,;|", key=header.count)
    separator = separator if separator in header else _rare_separator(text, header, options)
    typed = [
        name.strip() for name in next(csv.reader([header], delimiter=separator, **_QUOTED), [])
    ]
    names = [_without_type(name) for name in typed]
    atomic = names != typed and separator == "\t"  # RecBole's field_separator may be another
    if headless := bool(options.columns) and not _names_a_key(names, options):
        given, names = names, list(options.columns or ())
        if len(given) < len(names) or any(map(str.strip, given[len(names) :])):
            raise DataError(
                f"{path} has {len(given)} columns in its first line, and --columns names "
                f"{len(names)}: give a file of other columns a first line with their names"
            )
    elif len(names) == 1 and not _names_a_key(names, options):
        raise DataError(
            f"{path} has a single column, '{cut(header)}', which is not known: if it holds more, "
            "write the sign between them into a first line such as sep=^"
        )
    may_quote = '"' in text and not atomic
    way, width = _quoting(path, text, separator, len(names), may_quote, options.max_malformed)
    form: dict[str, Any] = {"sep": separator, "index_col": False, **way}
    form |= {"names": range(width), "header": None if headless else 0}
    try:
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, **form)
    except pd.errors.ParserError as error:
        raise DataError(f"{path}: {_first_line(error)}") from error
    names += [""] * (width - len(names))  # rows may end with it
    if not atomic and way is _LITERAL and '"' in text:
        frame = frame.map(_unquoted, na_action="ignore")
    frame.columns = pd.Index(names)
    return frame.loc[:, ~frame.columns.str.fullmatch(r"(Unnamed: \d+)?")]  # an index by pandas


def _header_at(text: str, options: ImportCommand) -> int:
    """Where the names of the columns stand: a report may have its title in lines above."""
    roles = (options.user, (*options.item, "id"), options.time or (), options.title)
    first, start = re.split("[\t\r\n]", text, maxsplit=1)[0], 0
    if options.columns or _without_type(first) != first:
        return 0
    for line in io.StringIO(text[:10_000], newline=""):
        names = [name.strip(' "\r\n') for name in re.split(r"[\t,;|]", line)]
        if len({find_column(names, role) for role in roles} - {None}) > 1:
            return start
        if len(list(filter(None, names))) > 2:  # a table of names that are not known
            return 0
        start += len(line)
    return 0


def _rare_separator(text: str, header: str, options: ImportCommand) -> str:
    """Find a sign, such as ^, that gives known columns and equal lines; else it is the space."""
    for sign in dict.fromkeys(" " + "".join(re.findall(r"[^\w .\"'-]", header))):
        names = header.split(sign)
        fits = len(names) == len(options.columns or ()) or _names_a_key(names, options)
        lines = (line for line in io.StringIO(text, newline="") if not line.isspace())
        if fits and {line.count(sign) + 1 for line in lines} == {len(names)} != {1}:
            return sign
    return " "


def _quoting(
    path: Path, text: str, separator: str, n: int, may_quote: bool, max_malformed: float
) -> tuple[dict[str, Any], int]:
    """How the quotation marks of a text with n columns are meant, and fields of the longest row.

    They may be literal if (nearly) every line has n fields and none has more.
    """
    lines = io.StringIO(text, newline="")
    counts = Counter(line.count(separator) + 1 for line in lines if not line.isspace())
    most = max(counts, default=0)
    if 0 < most < n:
        raise DataError(f"{path} has {most} columns, separated by {separator!r}, instead of {n}")
    ways = [_QUOTED, _ESCAPED] if may_quote else []
    if not ways or (most == n and counts[n] >= (1 - max_malformed) * counts.total()):
        ways.append(_LITERAL)
    faults = []
    for way in ways:
        try:
            return way, _width(text, separator, n, way, len(counts) == 1)
        except DataError as error:
            faults.append(error)
    raise DataError(f"{path}: {faults[0]}")


def _width(text: str, separator: str, n: int, way: dict[str, Any], alike: bool) -> int:
    """Fields of the longest row, at least n; an error if a row has more that are not empty.

    No value goes on in another line if lines are ``alike``, nor one that would hold rows.
    """

    def holds_rows(value: str) -> bool:
        inner = value.splitlines()[1:-1]
        if separator == "\t":  # which no text holds
            return 0 < n - 1 <= value.count(separator)
        return len(inner) > 2 and {one.count(separator) for one in inner} == {n - 1}

    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **way)
    width, line = n, 1
    try:
        for row in reader:
            if reader.line_num > line and (alike or any(map(holds_rows, row))):
                raise csv.Error
            if len(row) > n and any(map(str.strip, row[n:])):
                raise DataError(
                    f"line {line} has {len(row)} fields instead of {n}: a value that holds "
                    f"{separator!r} needs quotation marks"
                )
            width, line = max(width, len(row)), reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f'line {line}: a quotation mark opens a value and does not end it: write "" for one '
            "within a value"
        ) from error
    return width


def _unquoted(value: str) -> str:
    inner = re.fullmatch(r'"((?:[^"]|"")*)"', value)
    return inner[1].replace('""', '"') if inner else value


def _without_type(column: str) -> str:
    name, _, ftype = column.rpartition(":")
    return name if ftype in TYPES else column


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
