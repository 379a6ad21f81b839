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
from recbole_edt.importing.settings import ImportSettings
from recbole_edt.importing.tables import Table, distinct, find_column
from recbole_edt.importing.values import as_text, as_values, point_decimals
from recbole_edt.io.atomic import check_distinct, check_frames, cut
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
    if len(shared):
        notes += _undecided(collected.tables, shared)
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


def _undecided(tables: Sequence[Table], shared: pd.Series) -> list[str]:
    """Note tables that describe ids of both domains and do not say of which; refuse several."""
    of_both = [table for table in tables if not (table.has_users or table.domain)]
    notes = []
    for table in of_both:
        if (table.said[table.ids().isin(shared)] != "").all():
            continue
        if len({table.source for table in of_both}) > 1:
            raise DataError(
                f"item '{cut(shared.iloc[0])}' is in both domains: say which domain "
                f"{table.name} describes, DOMAIN={table.name}"
            )
        notes.append(
            f"{table.name} describes items of both domains: DOMAIN={table.name} if it is of one"
        )
    return notes


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
        written = rows["rating"].map("{:.15g}".format, na_action="ignore")
        inter["rating"], types["rating"] = written, "float"
    return inter, types


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by user and time; a hash merges ties of several files, those of one stay."""
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
    columns: list[tuple[str, str]] = []
    for table in collected.tables:
        columns += _named(table.attributes(), options).items()
    titles = dict.fromkeys(column for column, name in columns if name == "title")
    left_out = dict.fromkeys(_plain(column) for column, name in columns if name not in types)
    parts = {
        "text": [f"title ({', '.join(titles)})" if name == "title" else name for name in described],
        "kept, but no text": [name for name in types if name not in (*_RESERVED, *described)],
        "left out (empty, links, vectors, or not one value per item)": left_out,
    }
    named = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
    return f"columns of items: {'; '.join(named) or 'none'}"


def _listed(rows: pd.DataFrame, collected: Collected, options: ImportSettings) -> pd.DataFrame:
    """Items as ``domain``, ``item`` and ``sold``: of the rows, and others where they are kept."""
    sold = rows[["domain", "item"]].drop_duplicates()
    of_items = [table for table in collected.tables if not table.has_users]
    parts = [sold, *(_unsold(table, sold) for table in of_items)]
    items = pd.concat(parts, ignore_index=True).drop_duplicates()
    items["sold"] = items.index < len(sold)
    known = items[items["domain"].isin(sold["domain"])]
    lost = ((items["domain"] == "") & ~items["item"].isin(known["item"])).sum()
    if unsold := (~known["sold"]).sum() + (0 if options.keep_unsold else lost):
        what = "kept" if options.keep_unsold else "left out (--keep_unsold keeps them)"
        collected.notes.append(f"items of the tables without rows: {unsold:,}, {what}")
    if not options.keep_unsold:
        known = known[known["sold"]]
    elif lost:
        collected.notes.append(
            f"items without rows whose domain no table says: {lost:,}, left out (DOMAIN=FILE says "
            "it, or a column that names both domains)"
        )
    return known.sort_values(["domain", "item"])


def _unsold(table: Table, sold: pd.DataFrame) -> pd.DataFrame:
    """Items of a table that may have no rows, and their domain, empty where none is known."""
    names = {name.casefold(): name for name in sold["domain"].unique()}
    ids, domain = table.ids(), table.said
    ids = ids[~(domain + "\t" + ids).duplicated() & (ids != "")]
    if table.domain:
        return pd.DataFrame({"domain": table.domain, "item": ids})
    domain_of = sold.drop_duplicates("item").set_index("item")["domain"]
    of_rows = ids.map(domain_of).mask(ids.duplicated(keep=False)).dropna()  # of one domain
    for column in table.frame:  # which may hold just these domains
        found = as_text(table.frame[column]).str.casefold().map(names)
        if (found[of_rows.index] == of_rows).mean() >= _ALIKE:
            domain = found.fillna(domain)
            break
    if (column := table.columns.get("domain")) is not None:  # which may name a third one
        domain = domain.where(domain != "", as_values(table.frame[column]))
    ids = ids.drop(of_rows.index)
    return pd.DataFrame({"domain": domain[ids.index], "item": ids})


def _item_table(
    items: pd.DataFrame, collected: Collected, options: ImportSettings
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Lines of ``.item`` for rows that name each item once, and the types of the columns."""
    parts, known = [], list(_attributes(items, collected, options))
    for domain, own in items.groupby("domain"):
        part = pd.DataFrame(index=pd.Index(own["item"], name="item_id"))
        for owner, found in known:
            if owner in (None, domain):
                part = part.combine_first(found.reindex(part.index))
        parts.append(part.reset_index().assign(domain=domain))
    table = pd.concat(parts, ignore_index=True)
    types = {"item_id": "token", "domain": "token"}
    out = table[list(types)].copy()
    for column in sorted(set(table) - set(types), key=lambda name: (name != "title", name)):
        texts = table[column].fillna("")
        values = texts.map(lambda text: shorten(clean(text), options.text_length))
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
            out[column], types[column] = values, "float"  # as given: codes keep all digits
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
    for table in sorted(collected.tables, key=lambda table: table.has_users):
        ids, columns = table.ids(), table.attributes()
        said = table.said.where(ids.isin(shared), "")
        of_item = said + "\t" + ids
        frame = table.frame[~of_item.duplicated()]
        if table.has_users:
            frame = table.frame  # any row may have what others lack
            title = table.find(options.title if "title" in options.model_fields_set else ())
            columns = [c for c in columns if c == title or _is_of_items(frame[c], of_item)]
        texts = {
            name: as_text(frame[column]).replace("", None)
            for column, name in _named(columns, options).items()
            if name not in _RESERVED
        }
        found = pd.DataFrame(texts, index=frame.index, dtype=object)
        for domain, own in found.groupby(said[frame.index], sort=False):
            by_item = own.groupby(ids[own.index].to_numpy(), sort=False)
            yield table.domain or domain or None, by_item.first()


def _named(columns: Sequence[str], options: ImportSettings) -> dict[str, str]:
    """Name in ``.item`` of each column; of several that would have the same, the title has it."""
    title = find_column(columns, options.title)
    ordered = sorted(columns, key=lambda column: column != title)
    names = distinct("title" if column == title else _plain(column) for column in ordered)
    known = dict(zip(ordered, names, strict=True))
    return {column: known[column] for column in columns}


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
