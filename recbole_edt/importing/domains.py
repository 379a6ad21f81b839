"""A domain for every row: as the user named it, from a column, or from the files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from recbole_edt.errors import ConfigError, DataError
from recbole_edt.importing.settings import ImportSettings
from recbole_edt.importing.tables import Table, find_column
from recbole_edt.importing.values import as_values, flatten
from recbole_edt.io.atomic import cut
from recbole_edt.settings import nearest

_FEW = 100  # values of a column that may be one of domains
_SIGNS = r"[|,;:>/.\[\]{}]"  # between the parts of lists and paths of categories


def find_domains(
    rows: pd.DataFrame, tables: Sequence[Table], options: ImportSettings
) -> tuple[pd.Series, str]:
    """Domain of every row, and where it comes from: the user, a column, or the files."""
    interactions = [table for table in tables if table.has_users]
    named = [table for table in interactions if table.domain]
    if named and len(named) < len(interactions):
        other = next(table for table in interactions if not table.domain)
        raise ConfigError(f"name the domain of {other.name}, too: DOMAIN={other.name}")
    if named:
        return rows["source"], "domains: as named"
    is_given = "domain" in options.model_fields_set
    seen, many, values = "", False, None
    for name in options.domain:
        found = _column_values(name, rows, tables)
        if found is None:
            continue
        found, note = _of_lists(_same_case(found), options.domains or ())
        counts = found[found != ""].value_counts()
        if counts.empty:
            one = cut(rows["item"].iloc[0])
            seen = seen or f"column {name} says nothing of the items of the rows (such as '{one}')"
            continue
        chosen = set(options.domains or ())
        if len(counts) == 2 or (is_given and chosen) or chosen & set(counts.index):
            for table in tables:
                if column := table.find([name]):
                    table.columns["domain"] = column
            return found, f"domains: column {name} ({counted(counts)}){note}"
        seen = seen or f"column {name} has {len(counts)} values ({counted(counts)})"
        values = found if values is None else values
        many = many or len(counts) > 2
    if rows["source"].nunique() == 2 and not is_given and not _alike(rows, values):
        sources = {table.source for table in interactions}
        for table in tables:  # items of the same folder, or of a file of both
            table.domain = table.source if table.source in sources else None
        return rows["source"], "domains: by the names of the files"
    if is_given and not seen:
        known = {column for table in tables for column in table.frame.columns}
        name = options.domain[0]
        raise DataError(f"no file has a column '{name}' of the domain{nearest(name, known)}")
    hint = "--domains=A,B chooses two" if many else _columns_of_few(tables, options)
    raise DataError(
        f"the domains are unknown: {seen or 'no column names two'}: {hint}, A=FILE B=FILE names "
        "that of each file"
    )


def _columns_of_few(tables: Sequence[Table], options: ImportSettings) -> str:
    """Name the key of a column of domains, and columns of few values, which may be such."""
    few = {}
    for table in sorted(tables, key=lambda table: table.has_users):  # those of items first
        unknown = [column for column in table.frame if column not in table.columns.values()]
        for column in unknown:
            n = flatten(table.frame[column]).nunique()
            if 1 < n <= _FEW and find_column([column], options.domain) is None:
                few[column] = n
    such = f" (such as {cut(', '.join(sorted(few, key=few.__getitem__)), 200)})" if few else ""
    return f"--domain=COLUMN names a column that holds it{such}"


def _alike(rows: pd.DataFrame, values: pd.Series | None) -> bool:
    """Whether two files have mostly the same items, by their domains' column: of two days, say."""
    if values is None:
        return False
    pairs = pd.Series(list(zip(rows["item"], values, strict=True)), rows.index)
    one, other = (set(own) for _, own in pairs.groupby(rows["source"]))
    return 2 * len(one & other) > min(len(one), len(other))


def said_domain(table: Table, names: Iterable[str], options: ImportSettings) -> pd.Series:
    """Domain, of ``names``, that a column of a table says of each row; empty where none does."""
    known = {name.casefold(): name for name in names}
    columns = [] if table.domain else [table.find([name]) for name in options.domain]
    for column in filter(None, columns):
        values = as_values(table.frame[column]).str.casefold()
        said = _first_of(values, known) if options.domains else values.map(known).fillna("")
        if (said != "").any():
            return said
    return pd.Series("", table.frame.index, dtype=object)


def _column_values(name: str, rows: pd.DataFrame, tables: Sequence[Table]) -> pd.Series | None:
    """Values of a column of rows, or of items, for every row; None if there is none."""
    columns = [(table, table.find([name])) for table in tables if table.has_users]
    if all(column and column not in table.columns.values() for table, column in columns):
        values = pd.concat([as_values(table.frame[column]) for table, column in columns])
        return values.reset_index(drop=True)[rows.index]
    known: dict[str, str] = {}
    for table in tables:
        if not table.has_users and (column := table.find([name])):
            values = as_values(table.frame[column])[
                ::-1
            ]  # of an item that is there twice, the first
            known = dict(zip(table.ids()[::-1], values, strict=True)) | known
    return rows["item"].map(known).fillna("") if known else None


def _of_lists(domains: pd.Series, names: Sequence[str]) -> tuple[pd.Series, str]:
    """Put one of the two names in place of lists that hold it, and say so."""
    for sign in (_SIGNS, r"\s") if names else ():
        named = _first_of(domains, {name: name for name in names}, sign)
        if sign != _SIGNS:  # a name of several words is no list
            alone = set(domains)
            of_words = {value for value in alone if alone.issuperset(value.split())}
            named = named.where(domains.isin(of_words), "")
        lists = domains[(named != "") & (named != domains)]
        if len(lists) and set(names) <= set(named):
            note = f"; lists, such as '{cut(lists.iloc[0])}', are of the one that they name first"
            return named.where(named != "", domains), note
    return domains, ""


def _first_of(values: pd.Series, names: Mapping[str, str], sign: str = _SIGNS) -> pd.Series:
    """What some names stand for: of each value, or its first part that is one; empty if none is."""

    def first(value: str) -> str:
        parts = (part.strip(" '\"") for part in (value, *re.split(sign, value)))
        return next((names[part] for part in parts if part in names), "")

    codes, found = pd.factorize(values)
    return pd.Series(np.array([*map(first, found), ""], dtype=object)[codes], index=values.index)


def _same_case(domains: pd.Series) -> pd.Series:
    """Write names that differ in case alone as the most frequent of them."""
    names = domains.value_counts().index
    common = {name.casefold(): name for name in reversed(names)}
    return domains.map({name: common[name.casefold()] for name in names})


def two_domains(domains: pd.Series, options: ImportSettings) -> list[str]:
    """Names of the two domains of the rows, sorted; an error if there are others than two."""
    counts = domains[domains != ""].value_counts()
    for name in options.domains or ():
        if name not in counts:
            raise ConfigError(
                f"no row is of the domain '{name}'{nearest(name, counts.index)} "
                f"(there are {counted(counts)})"
            )
    names = sorted(options.domains or counts.index)
    if (n := len(set(names))) != 2:
        lower = "" if options.min_rating is None else ", or lower --min_rating"
        is_chosen = n > 2 or options.domains
        hint = "--domains=A,B chooses two" if is_chosen else f"add another, DOMAIN=FILE{lower}"
        raise DataError(
            f"there are {n} domains ({counted(counts)}), and exactly two are needed: {hint}"
        )
    return names


def counted(counts: pd.Series) -> str:
    """Name values and how many rows have them, for messages."""
    shown = [f"{cut(name)} {count:,} rows" for name, count in counts.head(8).items()]
    return ", ".join([*shown, "..."][: len(counts) + (len(counts) > 8)])
