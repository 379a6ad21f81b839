"""``recbole-edt import``: files of one's own in, atomic files, vectors and statistics out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_edt.augment.encoders import ENCODERS
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.importing.collect import collect
from recbole_edt.importing.dataset import Imported, build
from recbole_edt.importing.read import read_tables
from recbole_edt.importing.settings import ImportCommand, ImportSettings
from recbole_edt.importing.tables import Table
from recbole_edt.io.datasets import command_line, read_statistics, taken, write_dataset
from recbole_edt.io.files import check_writable
from recbole_edt.io.lock import run_lock
from recbole_edt.io.statistics import statistics_lines
from recbole_edt.settings import help_text, parse_arguments, shell, validate

HELP = help_text(
    "recbole-edt import FILE... --dataset=NAME [--key=value ...]",
    "Make a data set of two domains from your own files: CSV, TSV, JSON lines, Parquet, or folders "
    "of RecBole; plain or packed (.gz, .bz2, .xz). DOMAIN=FILE says which domain a file is of; "
    "without it, a column or the names of two files do. A file without users is a table of items "
    "and is joined to the rows.",
    ImportCommand,
    "  recbole-edt import books=books.csv movies=movies.csv films.jsonl --dataset=mine --preview\n",
)


def import_files(arguments: Sequence[str]) -> None:
    """Import the files that the arguments name, and print what was recognised and made.

    Raises
    ------
    EDTError
        If arguments or files are invalid, or the data set's folder holds anything else.
    """
    files: list[str] = []
    options = validate(ImportCommand, parse_arguments(arguments, ImportCommand, files))
    if not files:
        raise ConfigError("name the files to import: recbole-edt import FILE... --dataset=D")
    if not options.preview:
        _check_target(options)
    tables = read_tables(files, options)
    made = build(collect(tables, options), options)
    print(*made.notes, sep="\n")
    if options.preview:
        shown = made.inter.head(10).merge(made.item, on="item_id", how="left")
        shown = shown.drop(columns=["generated", "unsold"], errors="ignore")
        print(shown.to_string(index=False, max_colwidth=40))
    print(*statistics_lines(options.dataset, made.statistics), sep="\n")
    if options.preview:
        print("a preview: nothing was written")
        return
    if options.embed:
        print(f"embedding the text of {len(made.item):,} items (--embed=False leaves it out)")
    simulated = (Path(table.name).with_name("SIMULATED") for table in tables)
    note = next((path for path in simulated if path.is_file()), None)
    print(*_write(made, options, note), sep="\n")


def import_frames(
    interactions: pd.DataFrame | Mapping[str, pd.DataFrame],
    items: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Make a data set of two domains from DataFrames.

    Parameters
    ----------
    interactions : DataFrame, or mapping of str to DataFrame
        Of pandas, or what has a method ``to_pandas`` (Polars, PyArrow, Hugging Face's datasets).
        Rows of users: a column each for the user, the item and the time, and one for the domain
        unless a mapping gives a frame per domain.
    items : DataFrame, or mapping of str to DataFrame, optional
        Attributes of items, of both domains or per domain.
    **settings
        Keys of ``recbole-edt import``: ``dataset``, the name, is needed.

    Returns
    -------
    dict
        The statistics of the data set, and under ``prepared`` what was recognised.

    Raises
    ------
    EDTError
        If settings or data are invalid, or the data set's folder holds anything else.
    """
    as_text = {key: str(one) if isinstance(one, Path) else one for key, one in settings.items()}
    options = validate(ImportSettings, as_text)
    _check_target(options)
    tables = [
        Table(name := f"{what} {domain or ''}".strip(), what, domain, _as_pandas(frame, name))
        for what, given in (("interactions", interactions), ("items", items))
        for domain, frame in _by_domain(given)
    ]
    rows = [table for table in tables if table.source == "interactions"]
    empty = [table.name for table in rows if not len(table.frame)]
    needed = 2 if len(rows) > 1 else 1  # domains, or both of them in one table
    if len(rows) - len(empty) < needed:
        raise DataError(f"{(*empty, 'interactions')[0]} has no rows")
    made = build(collect(tables, options), options)
    _write(made, options)
    return made.statistics


def _by_domain(given: Any) -> list[tuple[str | None, pd.DataFrame]]:
    if not isinstance(given, Mapping):
        return [] if given is None else [(None, given)]
    return [(None if key is None else str(key), frame) for key, frame in given.items()]


def _as_pandas(frame: Any, name: str) -> pd.DataFrame:
    frame = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            f"{name} must be one DataFrame of pandas, not {type(frame).__name__}: pd.DataFrame or "
            "pd.concat makes one"
        )
    return frame.copy(deep=False)


def _check_target(options: ImportSettings) -> None:
    """Refuse a folder that would be lost or cannot be made; an earlier import is replaced."""
    target = options.target
    check_writable("output_path", Path(options.output_path, ".import", ".lock"))
    if options.lsa_items is not None:
        ENCODERS["lsa"](options)  # reads the file
    if (made := read_statistics(target, "import")) is not None:
        known = {*made["prepared"]["sha256"], f"{target.name}.statistics.json"}
        if other := sorted({file.name for file in target.iterdir()} - known):
            raise taken(target, f"holds {other[0]}, which import did not write")


def _write(made: Imported, options: ImportSettings, note: Path | None = None) -> list[str]:
    """Write the data set; say where, and what to do next."""
    vectors, corpus, ids = {}, None, ""
    replaced = ", in place of the earlier import" if any(options.target.glob("*")) else ""
    lines = [f"written: {options.target}{replaced}"]
    if options.embed:
        encoder = ENCODERS["lsa"](options)
        try:
            vectors, corpus = {"item": made.vectors(encoder)}, encoder.corpus
        except DataError as error:
            lines.append(f"no vectors of items are written: {str(error).partition(': give')[0]}")
    if not vectors:
        ids = " --item_embedding=id"
    tables = {what: (getattr(made, what), types) for what, types in made.types.items()}
    with run_lock(Path(options.output_path, ".import")):
        write_dataset(options.target, tables, made.statistics, vectors, corpus, note=note)
    run = command_line("run --model=LLMEDT", options.dataset, options.output_path) + ids
    augment = command_line("augment", options.dataset, options.output_path)
    # the earlier data lie in `augmented`
    folder = "augmented" if options.lsa_items is None else f"{options.output_path}_augmented"
    or_augment = [f"  or: {augment} {shell(f'--output_path={folder}')}"] if vectors else []
    return [*lines, f"next: {run}", *or_augment]
