"""From collected rows to a data set: filtered and ordered, with the attributes of its items."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recbole_edt.augment.encoders import Encoder
from recbole_edt.augment.items import count_without_text, described_columns, item_text
from recbole_edt.errors import DataError
from recbole_edt.importing.collect import Collected
from recbole_edt.importing.domains import said_domain
from recbole_edt.importing.settings import ImportSettings
from recbole_edt.importing.tables import (
    Table,
    as_ids,
    as_text,
    as_values,
    cut,
    find_column,
    point_decimals,
)
from recbole_edt.io.atomic import check_distinct, check_frames
from recbole_edt.io.files import INTER_COLUMNS
from recbole_edt.io.prices import read_price
from recbole_edt.io.statistics import dataset_statistics
from recbole_edt.prepare.filters import apply_filters, drop_repeated
from recbole_edt.prepare.records import clean, shorten

_RESERVED = {"item_id", "domain", "generated", "unsold"}
_ALIKE = 0.95  # share of items with one value in all their rows that makes a column one of items
_COMPARED = 100_000  # rows that are looked at for it, at most
_LINKS = 0.5  # share of links or vectors above which a column is no text
_VECTOR = r"(?=.*\d\.\d.*\d\.\d)[\s\d.,|;()\[\]eE+-]+"  # of decimal numbers


@dataclass
class Imported:
    """A data set, ready to be written."""

    inter: pd.DataFrame
    item: pd.DataFrame
    types: dict[str, dict[str, str]]  # ``inter``, ``item`` -> column -> RecBole's type
    texts: pd.DataFrame  # the columns of ``item`` that describe an item
    statistics: dict[str, Any]
    notes: list[str]  # what was recognised, left out or changed, a line each

    def vectors(self, encoder: Encoder) -> np.ndarray:
        """Encode the text of the items, float16 [n_items, d_L].

        Raises
        ------
        DataError
            If there is no text, or hardly any that tells the items apart.
        """
        if count_without_text(self.texts) == len(self.texts):
            raise DataError("the items have no text")
        vectors = encoder.encode([item_text(row) for row in self.texts.to_dict("records")])
        check_distinct(vectors, "the text of the items")
        return vectors.astype(np.float16)


def build(collected: Collected, options: ImportSettings) -> Imported:
    """Filter and order the rows, and describe the items that stay."""
    notes = collected.notes
    rows = _filtered(collected, options)
    items = _listed(rows, collected, options)
    shared = items.loc[items["item"].duplicated(), "item"]  # ids that both domains have
    of_both = [table for table in collected.items if table.domain is None]
    several = len({table.source for table in of_both}) > 1
    for table in of_both if len(shared) else ():
        said = said_domain(table, rows["domain"].unique(), options)
        if (said[as_ids(table.frame[table.columns["item"]]).isin(shared)] == "").any():
            if several:
                raise DataError(
                    f"item '{cut(shared.iloc[0])}' is in both domains: say which domain "
                    f"{table.name} describes, DOMAIN={table.name}"
                )
            notes.append(
                f"{table.name} describes items of both domains: DOMAIN={table.name} if it is of one"
            )
    item, item_types = _item_table(items, collected, options)
    if options.keep_unsold:
        item["unsold"], item_types["unsold"] = np.where(items["sold"], "0", "1"), "token"
    inter, inter_types = _inter_table(rows)
    if len(shared):
        item["item_id"] = item["domain"] + ":" + item["item_id"]
        inter["item_id"] = rows["domain"] + ":" + rows["item"]
        one = cut(shared.iloc[0])
        notes.append(
            f"{len(shared):,} items have the same id in both domains (such as '{one}'): "
            "they are taken for different ones, and every id begins with its domain "
            f"('{items['domain'].iloc[0]}:{one}')"
        )
    check_frames(inter, item, options.dataset)  # as every run will
    described = described_columns(item_types, options.text_columns, "the items")
    notes.append(_told(collected, options, item_types, described))
    texts = item[["domain", *described]].astype(object).fillna("")
    statistics = dataset_statistics(inter, item)
    if "title" in texts and (bare := (texts["title"] == "").sum()):
        notes.append(f"items without a title: {bare:,} of {len(item):,}")
    if missing := count_without_text(texts):
        notes.append(f"{missing:,} of {len(item):,} items have no text")
    if not statistics["users_of_both_domains"]:
        notes.append("no user has rows of both domains: are users called the same in all files?")
    statistics["prepared"] = {
        "command": "import",
        "settings": options.model_dump(mode="json", exclude={"dataset", "output_path"}),
        "rows_after": collected.steps,
        "notes": notes,
    }
    types = {"inter": inter_types, "item": item_types}
    return Imported(inter, item, types, texts, statistics, notes)


# -- rows -----------------------------------------------------------------------------------------


def _filtered(collected: Collected, options: ImportSettings) -> pd.DataFrame:
    """Rows that stay, by user and time."""
    rows, steps = _in_order(collected.rows), collected.steps
    second = (rows["domain"] == rows["domain"].max()).astype(np.int8)
    codes = {
        "user": pd.factorize(rows["user"])[0],
        "item": rows.groupby(["domain", "item"], sort=False).ngroup(),
        "time": rows["time"],
        "domain": second,
    }
    once = drop_repeated(pd.DataFrame(codes, index=rows.index), options)
    if len(once) < len(rows):
        steps["without repeated ones"] = len(once)
    rows = rows.loc[apply_filters(once, options, sorted(rows["domain"].unique())).index]
    steps["filtered"] = len(rows)
    return rows


def _inter_table(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Lines of ``.inter``, and the types of the columns."""
    inter = pd.DataFrame({"user_id": rows["user"], "item_id": rows["item"]})
    whole = (rows["time"] % 1 == 0).all()
    inter["timestamp"] = rows["time"].astype(np.int64) if whole else rows["time"]
    inter["position"] = inter.groupby("user_id").cumcount() + 1
    types = dict(INTER_COLUMNS)
    if rows["rating"].notna().any():
        inter["rating"], types["rating"] = rows["rating"], "float"
    return inter, types


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by user and time.

    Of one domain or file, rows of the same time stay in their order; those of several are merged
    by a hash of user and item, which prefers none.
    """
    user, source = (pd.factorize(rows[column])[0] for column in ("user", "source"))
    values = pd.util.hash_pandas_object(rows[["user", "item"]], index=False).to_numpy()
    tie = np.empty_like(values)
    groups = (rows["time"], user, source)
    tie[np.lexsort(groups)] = values[np.lexsort((values, *groups))]
    return rows.iloc[np.lexsort((tie, rows["time"], user))]


def _told(
    collected: Collected, options: ImportSettings, types: dict[str, str], described: Sequence[str]
) -> str:
    """Say what became of each column that is no user, item, time, rating or domain."""
    titles: dict[str, None] = {}
    others: dict[str, None] = {}
    for table in (*collected.interactions, *collected.items):
        keys = {column for role, column in table.columns.items() if role != "title"}
        left = [column for column in table.frame if column not in keys]
        title = find_column(left, options.title) if "title" in types else None
        titles |= dict.fromkeys(column for column in left if column == title)
        others |= dict.fromkeys(_plain(column) for column in left if column != title)
    parts = {
        "text": [f"title ({', '.join(titles)})" if name == "title" else name for name in described],
        "kept, but no text": [name for name in types if name not in (*_RESERVED, *described)],
        "left out (empty, links, vectors, or not one value per item)": [
            name for name in others if name not in types
        ],
    }
    named = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
    return f"columns of items: {'; '.join(named) or 'none'}"


# -- items ----------------------------------------------------------------------------------------


def _listed(rows: pd.DataFrame, collected: Collected, options: ImportSettings) -> pd.DataFrame:
    """Items of the rows and, where they are kept, those of the tables that have no rows.

    The columns are ``domain``, ``item`` and, bool, ``sold``.
    """
    sold = rows[["domain", "item"]].drop_duplicates()
    items, lost = _with_unsold(sold, collected.items, options)
    items["sold"] = items.index < len(sold)
    if unsold := (~items["sold"]).sum() + (0 if options.keep_unsold else lost):
        what = "kept" if options.keep_unsold else "left out (--keep_unsold keeps them)"
        collected.notes.append(f"items of the tables without rows: {unsold:,}, {what}")
    if not options.keep_unsold:
        items = items[items["sold"]]
    elif lost:
        collected.notes.append(
            f"items without rows whose domain no table says: {lost:,}, left out (DOMAIN=FILE says "
            "it, or a column that names both domains)"
        )
    return items.sort_values(["domain", "item"])


def _with_unsold(
    sold: pd.DataFrame, tables: Sequence[Table], options: ImportSettings
) -> tuple[pd.DataFrame, int]:
    """Append to ``sold``, items by domain, those of the tables that have no rows.

    A table is of one domain, or has it in the column that names the domain of its sold items.

    Returns
    -------
    items : DataFrame
        ``domain`` and ``item``.
    lost : int
        Items without rows of which no table says that they are of either domain.
    """
    names = {name.casefold(): name for name in sold["domain"].unique()}
    domain_of = sold.drop_duplicates("item").set_index("item")["domain"]
    parts, lost = [sold], set()
    for table in tables:
        ids = as_ids(table.frame[table.columns["item"]])
        said = said_domain(table, names.values(), options)
        ids = ids[~(said + "\t" + ids).duplicated() & (ids != "")]
        there = ids.map(domain_of).mask(ids.duplicated(keep=False))  # of both domains
        domain = said.replace("", table.domain)
        if table.domain is None:
            ids, there = ids[there.isna()], there.dropna()
            for column in table.frame:
                text = as_text(table.frame[column]).str.casefold()
                if (text[there.index].map(names) == there).mean() >= _ALIKE:
                    domain = text.map(names).fillna(said)
                    break
        part = pd.DataFrame({"domain": domain[ids.index], "item": ids})
        known = part["domain"].isin(names.values())
        parts.append(part[known])
        no_domain = part["item"][~known]
        if (column := table.columns.get("domain")) is not None:  # others are of a third domain
            no_domain = no_domain[as_values(table.frame[column])[no_domain.index] == ""]
        lost.update(no_domain)
    items = pd.concat(parts, ignore_index=True).drop_duplicates()
    return items, len(lost.difference(items["item"]))


def _item_table(
    items: pd.DataFrame, collected: Collected, options: ImportSettings
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Lines of ``.item`` for rows that name each item once, and the types of the columns."""
    parts, known = [], list(_attributes(items, collected, options))
    for domain, own in items.groupby("domain"):
        part = pd.DataFrame(index=pd.Index(own["item"], name="item_id"))
        for owner, found in known:
            if owner in (None, domain):
                part = part.combine_first(found.reindex(part.index).replace("", None))
        parts.append(part.reset_index().assign(domain=domain))
    table = pd.concat(parts, ignore_index=True)
    types = {"item_id": "token", "domain": "token"}
    out = table[list(types)].copy()
    for column in sorted(set(table) - set(types), key=lambda name: (name != "title", name)):
        values = (
            table[column].fillna("").map(lambda text: shorten(clean(text), options.text_length))
        )
        given = int((values != "").sum())
        numbers = pd.to_numeric(values.where(values != ""), errors="coerce")
        others = values.str.contains("https?://") | values.str.fullmatch(_VECTOR)
        if not given or others.sum() > _LINKS * given:
            continue  # nothing, or links, or vectors
        if column == "price":
            prices = point_decimals(values).map(read_price)
            out[column], types[column] = prices.astype(float), "float"
            lost = values[out[column].isna() & (values != "")]
            if len(lost):
                collected.notes.append(
                    f"prices that are no amount above 0: {len(lost):,} of {given:,} (such as "
                    f"'{cut(lost.iloc[0])}')"
                )
        elif column != "title" and numbers.notna().sum() == given:
            out[column], types[column] = numbers.astype(float), "float"
        else:
            out[column], types[column] = values, "token_seq"
    return out.assign(generated="0"), types | {"generated": "token"}


def _attributes(
    items: pd.DataFrame, collected: Collected, options: ImportSettings
) -> Iterator[tuple[str | None, pd.DataFrame]]:
    """Domain and text by item: of the tables of items, then of the rows where they are alike.

    The domain is that of the table, or what it says of ids that both domains have, or None.
    """
    shared = items.loc[items["item"].duplicated(), "item"]
    for table in (*collected.items, *collected.interactions):
        ids = as_ids(table.frame[table.columns["item"]])
        keys = {column for role, column in table.columns.items() if role != "title"}
        columns = [column for column in table.frame if column not in keys]
        said = said_domain(table, items["domain"].unique(), options).where(ids.isin(shared), "")
        of_item = said + "\t" + ids
        if "user" in table.columns:
            frame = table.frame  # any row may have what others lack
            named = options.title if "title" in options.model_fields_set else ()
            title = find_column(columns, named)
            columns = [c for c in columns if c == title or _is_of_items(table.frame[c], of_item)]
        else:
            frame = table.frame[~of_item.duplicated()]
        title = find_column(columns, options.title)
        names = {column: "title" if column == title else _plain(column) for column in columns}
        texts = {
            name: as_text(frame[column]).replace("", None)
            for column, name in names.items()
            if name not in _RESERVED
        }
        found = pd.DataFrame(texts, index=frame.index, dtype=object)
        for domain, own in found.groupby(said[frame.index], sort=False):
            yield (
                table.domain or domain or None,
                own.groupby(ids[own.index].to_numpy(), sort=False).first(),
            )


def _plain(column: str) -> str:
    return re.sub(r"[\s:]+", "_", column)


def _is_of_items(values: pd.Series, ids: pd.Series) -> bool:
    """Whether a column of rows says something about the item alone: all rows of an item agree.

    Rows without a value say nothing. What a user wrote or paid differs from row to row, and must
    not describe an item: its rows may be held out.
    """
    texts = as_text(values[:_COMPARED])
    texts = texts[texts != ""]
    ids = ids[texts.index]
    repeated = ids[ids.duplicated(keep=False)]
    texts = texts[repeated.index]
    if texts.nunique() < 2:
        return False
    return bool((texts.groupby(repeated).nunique() == 1).mean() >= _ALIKE)
