"""From raw Amazon files to the atomic files of a pair of domains.

Reviews are read into a table and filtered; then the metadata of the remaining items is read. The
data set appears under its name when all of its files are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_edt.io import files
from recbole_edt.io.datasets import read_statistics, taken, write_dataset
from recbole_edt.io.lock import run_lock
from recbole_edt.io.statistics import dataset_statistics
from recbole_edt.prepare.download import fetch
from recbole_edt.prepare.filters import apply_filters, drop_cross_listed
from recbole_edt.prepare.raw import in_order, listed_asins, read_catalogue, read_reviews
from recbole_edt.prepare.records import Item, number_to_asin
from recbole_edt.prepare.settings import PrepareCommand
from recbole_edt.prepare.sources import DomainSource, local_file, pair_sources


def find_prepared(options: PrepareCommand) -> dict[str, Any] | None:
    """Statistics of a data set that the same options made before; None if there is no data set.

    Raises
    ------
    DataError
        If the folder holds anything else, which must not be lost.
    """
    statistics = read_statistics(options.target, "prepare")
    if statistics and statistics["prepared"]["settings"] != options.recorded():
        raise taken(options.target, "was prepared with other options")
    return statistics


def prepare_pair(options: PrepareCommand) -> dict[str, Any]:
    """Make the data set.

    Returns
    -------
    dict
        The content of ``<D>.statistics.json``: what :func:`~recbole_edt.io.statistics.
        dataset_statistics` returns, and under ``prepared`` the settings, the rows after each step,
        and the checksums of the raw and of the written files.

    Raises
    ------
    EDTError
        If raw files are missing or invalid, the filters leave nothing, or another run downloads or
        prepares in the same place.
    """
    sources = pair_sources(options)
    files.check_writable("output_path", Path(options.output_path, ".downloads", ".lock"))
    if options.source:
        _raw_files(options, sources)  # names what is missing before anything is made
    with run_lock(Path(options.output_path, ".downloads")):
        raw = _raw_files(options, sources)
        rows, steps = _filtered_rows(options, raw)
        metadata = [path for _, path in raw]
        inter, item = _inter_table(rows), _item_table(options, sources, metadata, rows)
        unknown = (item[["title", "brand", "categories", "description"]] == "").all(axis=1)
        statistics = dataset_statistics(inter, item)
        statistics["prepared"] = {
            "settings": options.recorded(),
            "rows_after": steps,
            "items_without_metadata": int((unknown & item["price"].isna()).sum()),
            "raw_files": {path.name: files.file_sha256(path) for pair in raw for path in pair},
        }
        tables = {"item": (item, files.ITEM_COLUMNS), "inter": (inter, files.INTER_COLUMNS)}
        write_dataset(options.target, tables, statistics)
    return statistics


def _raw_files(options: PrepareCommand, sources: Sequence[DomainSource]) -> list[tuple[Path, Path]]:
    """Find or download the reviews and the metadata of both domains."""

    def have(source: DomainSource, paths: Sequence[str]) -> Path:
        if options.source:
            return local_file(Path(options.source), source, paths)
        path = Path(options.output_path, ".downloads", str(options.edition), paths[0])
        fetch(f"{source.base_url}/{paths[0]}", path)
        return path

    return [(have(source, source.reviews), have(source, [source.items])) for source in sources]


def _filtered_rows(
    options: PrepareCommand, raw: Sequence[tuple[Path, Path]]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Read the reviews and filter them; count the rows after each step."""
    rows = read_reviews([reviews for reviews, _ in raw], options.max_malformed)
    listed = np.empty(0, dtype=np.int64)
    if options.cross_listed == "listed":
        first, second = (listed_asins(items) for _, items in raw)
        listed = np.intersect1d(first, second, assume_unique=True)
    of_one_domain = drop_cross_listed(rows, listed)
    kept = apply_filters(in_order(of_one_domain), options)
    steps = {"read": rows, "cross-listed items dropped": of_one_domain, "filtered": kept}
    return kept, {step: len(left) for step, left in steps.items()}


def _inter_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Lay out ``.inter``; users get running numbers instead of their names."""
    user, users = pd.factorize(rows["user"])
    item, numbers = pd.factorize(rows["item"])
    names = np.array([f"u{number:07d}" for number in range(1, len(users) + 1)], dtype=object)
    asins = np.array([number_to_asin(number) for number in numbers], dtype=object)
    places = rows.groupby("user").cumcount().to_numpy() + 1
    columns = (names[user], asins[item], rows["time"].to_numpy(), places)
    return pd.DataFrame(dict(zip(files.INTER_COLUMNS, columns, strict=True)))


def _item_table(
    options: PrepareCommand,
    sources: Sequence[DomainSource],
    metadata: Sequence[Path],
    rows: pd.DataFrame,
) -> pd.DataFrame:
    """Read the attributes of the remaining items; sorted by domain and ASIN."""
    parts = []
    for domain, (source, path) in enumerate(zip(sources, metadata, strict=True)):
        numbers = np.unique(rows["item"][rows["domain"] == domain])
        asins = [number_to_asin(number) for number in numbers]
        known = read_catalogue(path, set(asins), source.category, options)
        part = pd.DataFrame([known.get(asin, Item(asin)) for asin in asins])
        parts.append(part.assign(domain=source.domain, generated="0"))
    table = pd.concat(parts, ignore_index=True).rename(columns={"asin": "item_id"})
    return table.astype({"price": float})[list(files.ITEM_COLUMNS)]
