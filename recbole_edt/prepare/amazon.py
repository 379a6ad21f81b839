"""From raw Amazon files to the atomic files of a pair of domains, all or nothing.

Reviews are read into arrays, filtered, and only then is the metadata of what is left read. The
data set appears under its name when all of its files are whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_edt.errors import DataError
from recbole_edt.io.files import (
    INTER_COLUMNS,
    ITEM_COLUMNS,
    atomic_write,
    file_sha256,
    write_table,
)
from recbole_edt.io.lock import run_lock
from recbole_edt.io.statistics import dataset_statistics
from recbole_edt.prepare.catalogue import MetadataFile, listed_asins, read_catalogue
from recbole_edt.prepare.download import fetch
from recbole_edt.prepare.filters import Filters, apply, drop_cross_listed, in_order
from recbole_edt.prepare.records import Item, number_to_asin
from recbole_edt.prepare.reviews import Reviews, read_reviews
from recbole_edt.prepare.sources import PairSource, RawFile, local_file


@dataclass(frozen=True)
class Recipe:
    """How a data set is made; ``properties/prepare/amazon.yaml`` documents the settings.

    Attributes
    ----------
    source : PairSource
        Pair, edition and addresses.
    output_path : Path
        Folder that receives the data set's folder.
    local : Path, optional
        Folder of raw files to read instead of downloading.
    filters : Filters
        Which reviews stay.
    cross_listed : str
        ``listed`` or ``reviewed``.
    description_length : int
        Longest description, in characters.
    max_malformed : float
        Share of unreadable lines from which a file is refused.
    """

    source: PairSource
    output_path: Path
    local: Path | None = None
    filters: Filters = field(default_factory=Filters)
    cross_listed: str = "listed"
    description_length: int = 500
    max_malformed: float = 0.01

    @property
    def target(self) -> Path:
        """Folder of the data set."""
        return self.output_path / self.source.pair

    def settings(self) -> dict[str, Any]:
        """Everything that decides what the files hold, apart from the raw files."""
        return {
            "edition": self.source.edition,
            "cross_listed": self.cross_listed,
            **asdict(self.filters),
            "description_length": self.description_length,
        }


def find_prepared(recipe: Recipe) -> dict[str, Any] | None:
    """Return the statistics of a data set that this recipe made before.

    Returns
    -------
    dict or None
        None if the folder is not there or is empty.

    Raises
    ------
    DataError
        If the folder holds anything else, which must not be lost.
    """
    target, name = recipe.target, recipe.source.pair
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        statistics = json.loads((target / f"{name}.statistics.json").read_text(encoding="utf-8"))
        prepared = statistics["prepared"]
        settings, checksums = prepared["settings"], dict(prepared["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise _occupied(target, "was not made by prepare") from None
    if settings != recipe.settings():
        raise _occupied(target, "was prepared with other options")
    for file, digest in checksums.items():
        if not (target / file).is_file() or file_sha256(target / file) != digest:
            raise _occupied(target, "was changed since it was prepared")
    return statistics


def _occupied(target: Path, why: str) -> DataError:
    return DataError(f"{target} exists and {why}: remove it or choose another --output_path")


def prepare_pair(recipe: Recipe) -> dict[str, Any]:
    """Make the data set, or find that it is there already.

    Parameters
    ----------
    recipe : Recipe
        What to make of what.

    Returns
    -------
    dict
        The content of ``<D>.statistics.json``: :func:`~.statistics.dataset_statistics`, and under
        ``prepared`` the settings, the rows after each step, the checksums of the raw files and of
        the written ones.

    Raises
    ------
    EDTError
        For raw files that cannot be had or read, filters that leave nothing, a folder that must
        not be replaced, and another run that downloads or prepares in the same place.
    """
    done = find_prepared(recipe)
    if done is not None:
        return done
    if recipe.local is not None:
        _raw_files(recipe)  # what is missing is said before anything is made
    with run_lock(recipe.output_path / ".downloads"):
        return _prepare(recipe)


def _prepare(recipe: Recipe) -> dict[str, Any]:
    raw = _raw_files(recipe)
    rows, steps = _filtered_rows(recipe, raw)
    inter, item, unknown = _frames(recipe, rows, _describe(recipe, raw, rows))
    prepared = {
        "settings": recipe.settings(),
        "rows_after": steps,
        "items_without_metadata": unknown,
        "raw_files": {path.name: file_sha256(path) for pair in raw for path in pair},
    }
    return _write(recipe, inter, item, {**dataset_statistics(inter, item), "prepared": prepared})


def _raw_files(recipe: Recipe) -> list[tuple[Path, Path]]:
    """Have the reviews and metadata of both domains on disk."""
    return [
        (_raw_file(recipe, source.reviews), _raw_file(recipe, source.items))
        for source in recipe.source.domains
    ]


def _raw_file(recipe: Recipe, raw: RawFile) -> Path:
    if recipe.local is not None:
        return local_file(recipe.local, raw)
    path = recipe.output_path / ".downloads" / recipe.source.edition / raw.name
    fetch(f"{recipe.source.base_url}/{raw.path}", path, raw.sha256)
    return path


def _filtered_rows(
    recipe: Recipe, raw: Sequence[tuple[Path, Path]]
) -> tuple[Reviews, dict[str, int]]:
    """Read the reviews and filter them; count what each step leaves."""
    rows = read_reviews([reviews for reviews, _ in raw], recipe.max_malformed)
    steps = {"read": len(rows)}
    listed = np.empty(0, dtype=np.int64)
    if recipe.cross_listed == "listed":
        first, second = (listed_asins(items) for _, items in raw)
        listed = np.intersect1d(first, second, assume_unique=True)
    rows = drop_cross_listed(rows, listed)
    steps["cross-listed items dropped"] = len(rows)
    rows = apply(in_order(rows), recipe.filters)
    steps["filtered"] = len(rows)
    return rows, steps


def _describe(
    recipe: Recipe, raw: Sequence[tuple[Path, Path]], rows: Reviews
) -> list[dict[str, Item]]:
    """Read the attributes of the items that stay, by domain and ASIN."""
    described = []
    for domain, (_, path) in enumerate(raw):
        numbers = rows.asins[np.unique(rows.item[rows.domain == domain])]
        wanted = {number_to_asin(int(number)) for number in numbers}
        root = recipe.source.domains[domain].category
        file = MetadataFile(
            path, recipe.source.metadata, root, recipe.description_length, recipe.max_malformed
        )
        known = read_catalogue(file, wanted)
        described.append(
            {asin: known.get(asin, Item(asin, "", "", None, "", "")) for asin in sorted(wanted)}
        )
    return described


def _frames(
    recipe: Recipe, rows: Reviews, items: Sequence[Mapping[str, Item]]
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Lay out both tables, and count the items of which nothing is known.

    Users get running numbers; who they are is no business of a data set. Items are sorted by
    domain and ASIN.
    """
    users, user = np.unique(rows.user, return_inverse=True)
    names = np.array([f"u{number + 1:07d}" for number in range(len(users))], dtype=object)
    kept, item = np.unique(rows.item, return_inverse=True)
    asins = np.array([number_to_asin(int(number)) for number in rows.asins[kept]], dtype=object)
    starts = np.searchsorted(user, np.arange(len(users)))
    inter = pd.DataFrame(
        {
            "user_id": names[user],
            "item_id": asins[item],
            "timestamp": rows.time,
            "position": np.arange(len(user)) - starts[user] + 1,
        }
    )
    table = pd.DataFrame(
        [
            {"domain": source.domain, **record._asdict()}
            for source, records in zip(recipe.source.domains, items, strict=True)
            for record in records.values()
        ]
    ).rename(columns={"asin": "item_id"})
    table["price"] = table["price"].astype(float)
    table["generated"] = "0"
    unknown = (table[["title", "brand", "categories", "description"]] == "").all(axis=1)
    return inter, table[list(ITEM_COLUMNS)], int((unknown & table["price"].isna()).sum())


def _write(
    recipe: Recipe, inter: pd.DataFrame, item: pd.DataFrame, statistics: dict[str, Any]
) -> dict[str, Any]:
    """Write all files into a folder aside, which then takes the data set's name."""
    name = recipe.source.pair
    partial = recipe.output_path / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run has left
    partial.mkdir(parents=True)
    try:
        write_table(item, ITEM_COLUMNS, partial / f"{name}.item")
        write_table(inter, INTER_COLUMNS, partial / f"{name}.inter")
        statistics["prepared"]["sha256"] = {
            file.name: file_sha256(file) for file in sorted(partial.iterdir())
        }
        with atomic_write(partial / f"{name}.statistics.json") as temporary:
            text = json.dumps(statistics, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        os.rename(partial, recipe.target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return statistics
