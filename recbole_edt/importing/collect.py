"""Tables of rows and of items as one: columns recognised, times read, a domain for every row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbole_edt.errors import ConfigError, DataError
from recbole_edt.importing.domains import counted, find_domains, said_domain, two_domains
from recbole_edt.importing.settings import ImportSettings
from recbole_edt.importing.tables import (
    ROLES,
    Table,
    as_ids,
    as_text,
    as_values,
    cut,
    explode,
    find_column,
    flatten,
    flatten_decoded,
    may_be_nested,
    plain_name,
    point_decimals,
    unfold,
)
from recbole_edt.importing.times import (
    NAIVE,
    ORDER,
    SOME,
    format_hint,
    read_times,
    time_of_day,
)
from recbole_edt.settings import nearest

_KINDS = ("event", "event_type", "event_name", "behavior", "behaviour", "action", "action_type")
_GUEST = 0.05, 10  # share of all rows, and times the mean, above which a user may be many
# beside a column of times of day
_DATES = ("date", "day", "event_date", "order_date", "purchase_date", "review_date")


@dataclass
class Collected:
    """All rows, and the tables that say more about items."""

    rows: pd.DataFrame  # user, item, time, rating, domain; text and numbers, in the files' order
    interactions: list[Table]
    items: list[Table]
    steps: dict[str, int]  # step -> rows after it
    notes: list[str]  # what was recognised or left out, a line each


def _bare(values: pd.Series) -> pd.Series:
    return as_values(values).str.removesuffix(".0")


def collect(tables: Sequence[Table], options: ImportSettings) -> Collected:
    """Recognise the tables and put their rows together.

    Raises
    ------
    ConfigError, DataError
        If a column is not found, too many values cannot be read, or there are not two domains.
    """
    for domain in filter(None, (table.domain for table in tables)):
        if "\t" in domain or domain.splitlines() != [domain]:
            raise ConfigError(
                f"the name of a domain has a tab or a line break: {cut(repr(domain))}"
            )
    interactions, items = _recognise(tables, options)
    if options.time is None and len(interactions) > 1:
        raise ConfigError("--time=none needs all rows of users in one file, in their order")
    parts, notes, read = [], [], 0
    naive, exact, order = [], [], []  # files whose times have no zone; others; numbers that order
    for table in interactions:
        part, note, unit = _rows(table, options)
        naive += [table.name] * (unit in (NAIVE, SOME))
        exact += [table.name] * (unit not in (NAIVE, ORDER))
        order += [table.name] * (unit == ORDER)
        parts.append(part.assign(at=part.index + read))
        notes.append(note)
        read += len(table.frame)
    if order and (others := [*naive, *exact]):
        raise DataError(
            f"the times of {order[0]} are {ORDER}, and cannot be compared with those of "
            f"{others[0]}: name a column of times by --time=COLUMN"
        )
    notes += [f"{_described(table)}, of items" for table in items]
    if naive and exact:
        notes.append(
            f"times without a zone, such as those of {naive[0]}, are read as UTC beside exact "
            f"ones, such as those of {exact[-1]}: write local times with their zone (+01:00)"
        )
    rows = pd.concat(parts, ignore_index=True)
    if rows.empty:
        raise DataError(f"no row of {interactions[0].name} has a user, an item and a time")
    users = rows["user"].value_counts()
    if users.iloc[0] > max(_GUEST[0] * len(rows), _GUEST[1] * users.mean()):
        notes.append(
            f"user '{cut(users.index[0])}' has {users.iloc[0]:,} of {len(rows):,} rows: if that "
            "stands for unknown ones, such as guests, take its rows out of the files"
        )
    steps = {"read": read}
    if len(rows) < read:
        steps["complete"] = len(rows)
    if options.min_rating is not None:
        rows = rows[rows["rating"] >= options.min_rating].copy()
        steps[f"rated {options.min_rating:g} or more"] = len(rows)
        if rows.empty:
            raise DataError(f"no row is rated {options.min_rating:g} or more: lower --min_rating")
    rows["domain"], note = find_domains(rows, interactions, items, options)
    notes.append(note)
    names = two_domains(rows["domain"], options)
    known = set(rows["item"])
    for table in items:
        _take_off_domains(table, names, known, options)
        ids = as_ids(table.frame[column := table.columns["item"]])
        if len(ids) and known.isdisjoint(ids):
            notes.append(
                f"{table.name} describes no item of the rows: its {column} has ids such as "
                f"'{cut(ids.iloc[0])}', the rows '{cut(rows['item'].iloc[0])}'; --item=COLUMN,"
                "COLUMN names the columns of all files"
            )
    of_both = rows[rows["domain"].isin(names)].reset_index(drop=True)
    if len(of_both) < len(rows):
        steps["of both domains"] = len(of_both)
    return Collected(of_both, interactions, items, steps, notes)


def _take_off_domains(
    table: Table, names: Iterable[str], known: set[str], options: ImportSettings
) -> None:
    """Write ids of an earlier import, such as ``books:7``, as the rows have them: ``7``."""
    column = table.columns["item"]
    ids, said = as_ids(table.frame[column]), said_domain(table, names, options)
    bare = [one.removeprefix(f"{of}:") for one, of in zip(ids, said, strict=True)]
    if known.isdisjoint(ids) and not known.isdisjoint(bare):
        table.frame[column] = pd.Series(bare, ids.index, dtype=object)


# -- columns --------------------------------------------------------------------------------------


def _recognise(tables: Sequence[Table], options: ImportSettings) -> tuple[list[Table], list[Table]]:
    """Tell rows of users from tables of items, and find the columns of both."""
    interactions: list[Table] = []
    items: list[Table] = []
    needed = ["user", "item"] + ["time"] * bool(options.time)
    needed += ["rating"] * (options.min_rating is not None)
    for table in tables:
        named = [name for name in table.frame.index.names if name is not None]
        # rows are found by their place below
        frame = table.frame.reset_index(drop=not named, allow_duplicates=True)
        given = pd.Series(list(map(str, frame.columns)), dtype=object)
        again = given.groupby(given).cumcount()
        # as pandas names them
        frame.columns = [f"{name}.{n}" if n else name for name, n in zip(given, again, strict=True)]
        table.frame = unfold(frame, options)
        columns, repeated = list(table.frame.columns), set(given[again > 0])
        for role in ROLES:
            if (column := find_column(columns, getattr(options, role) or ())) is not None:
                if column in repeated:
                    raise DataError(
                        f"{table.name} has several columns '{cut(column)}': keep one of them"
                    )
                _check_decoded(table.frame[column])
        if (user := _user_column(columns, options)) is None:
            items.append(table)
            continue
        interactions.append(table)
        table.columns["user"] = user
        for role in ("item", "time", "rating"):
            _set_column(table, role, find_column(columns, getattr(options, role) or ()))
        if (item := table.columns.get("item")) and may_be_nested(table.frame[item]):
            table.frame = explode(table.frame, item)  # baskets: lists of ids
        for role in ("user", "item"):
            _check_no_objects(table, role)
    for table in items:
        columns = list(table.frame.columns)
        _set_column(table, "item", _joining_column(table, interactions, options))
        _set_column(table, "title", find_column(columns, options.title))
    domains = {table.domain for table in interactions}
    times = {table.columns["time"] for table in interactions if "time" in table.columns}
    takes = {id(table): _taken_for_rows(table, domains, times, options) for table in items}
    largest = max(items, key=lambda table: len(table.frame)) if items else None
    # by columns: files of the same ones are named once
    lacking: dict[tuple[str, ...], tuple[Table, list[str]]] = {}
    for table in tables:
        known, has_item = table.frame.columns, "item" in table.columns
        rows = "user" in table.columns or takes.get(id(table))
        roles = needed if rows else [] if has_item else ["item"]
        if not interactions and (table is largest or not has_item):
            roles = needed  # which file holds the rows is not known
        others = [role for role in roles if role not in table.columns]
        missing = [
            role
            for role in others  # a column of the user that a key names for something else is none
            if role == "user" or find_column(known, getattr(options, role)) is None
        ]
        if missing:
            lacking.setdefault(tuple(known), (table, missing))
    if lacking:
        why = [takes.get(id(table)) or _apart(table, tables) for table, _ in lacking.values()]
        unknown = _unknown([*lacking.values()], options, tables)
        raise DataError("; ".join([unknown, *dict.fromkeys(filter(None, why))]))
    known = [column for table in tables for column in table.frame.columns]
    for role in {"title", "rating"} & options.model_fields_set:
        if find_column(known, names := getattr(options, role)) is None:
            near = nearest(names[0], known)
            raise DataError(f"no file has a column '{names[0]}' of the {role}{near}")
    return interactions, items


def _set_column(table: Table, role: str, column: str | None) -> None:
    if column is not None and column not in table.columns.values():
        table.columns[role] = column


def _user_column(columns: Sequence[str], options: ImportSettings) -> str | None:
    """Find the column of the user, which a key may name for something else: --item=uid."""
    if "user" not in options.model_fields_set:
        others = options.model_fields_set.intersection(("item", "time", "rating"))
        taken = {find_column(columns, getattr(options, role) or ()) for role in others}
        columns = [column for column in columns if column not in taken]
    return find_column(columns, options.user)


def _joining_column(
    table: Table, interactions: Sequence[Table], options: ImportSettings
) -> str | None:
    """Find the column of a table of items that holds most ids of the rows; else the first."""
    columns = (find_column(table.frame, (name,)) for name in (*options.item, "id"))
    found = list(dict.fromkeys(filter(None, columns)))
    if len(found) < 2:
        return next(iter(found), None)
    rows = (one.frame[one.columns["item"]] for one in interactions if "item" in one.columns)
    known = {one for ids in rows for one in _bare(ids).unique()} - {""}
    return max(found, key=lambda column: len(known.intersection(_bare(table.frame[column]))))


def _check_no_objects(table: Table, role: str) -> None:
    """Refuse ids that are objects: what they say of a user changes from row to row."""
    if (column := table.columns.get(role)) is None:
        return
    names = _names(table.frame[[column]])
    if names[0] != column and not names[0].startswith(f"{column}.$"):  # as MongoDB has ids
        keys = cut(" or ".join(f"--{role}={name}" for name in names), 200)
        raise DataError(f"{table.name}: {column} holds objects: name a value of them, {keys}")


def _check_decoded(values: pd.Series) -> None:
    try:
        flatten_decoded(values)
    except UnicodeDecodeError as error:
        raise DataError(
            f"column {values.name} holds bytes that are not utf-8 text (such as "
            f"{cut(error.object)}): decode them, or leave the column out"
        ) from error


def _apart(table: Table, tables: Sequence[Table]) -> str:
    """Name a column that joins a table without items to another; or what else it may be."""
    if "item" in table.columns:
        return ""
    own = set(table.frame) - {table.columns.get("user")}
    for other in tables:
        shared = sorted(
            own.intersection(other.frame),
            key=lambda name: (not plain_name(name).endswith("id"), name),
        )
        if other is table or not shared:
            continue
        if "item" in other.columns:
            return f"if {shared[0]} joins it to {other.name}, join the two first (docs/data.md)"
        return f"is {shared[0]}, which several files have, the item (--item={shared[0]})?"
    others = any({"user", "item"} <= other.columns.keys() for other in tables)
    return f"if {table.name} describes users, leave it out" if others else ""


def _taken_for_rows(
    table: Table, domains: set[str | None], times: set[str], options: ImportSettings
) -> str:
    """Say why a table without users seems to hold rows of users and no items; empty if not."""
    time = find_column(table.frame.columns, options.time or ())
    item = table.columns.get("item")
    if time and (table.domain or (item and flatten(table.frame[item]).duplicated().any())):
        way_out = f"leave out its column {time}"
        if times and time not in times:
            way_out = f"say --time={','.join(sorted(times))}, as the rows have it"
        return f"if {table.name} is a table of items, {way_out}"
    wanted = options.domains is None or table.domain in options.domains
    if table.domain and wanted and domains - {None} and table.domain not in domains:
        return f"no other file has rows of {table.domain}"
    return ""


def _names(frame: pd.DataFrame) -> list[str]:
    """Names of the columns, of those that hold objects with the keys of the first."""
    out = []
    for column in frame.columns:
        values = explode(frame[[column]].head(1000), column)[column]
        objects = (value for value in values if isinstance(value, dict))
        out += [f"{column}.{key}" for key in next(objects, {})] or [column]
    return out


def _unknown(
    lacking: Sequence[tuple[Table, list[str]]], options: ImportSettings, tables: Sequence[Table]
) -> str:
    """Say which columns are not found in which files, and how to name them."""
    told, names, keys = [], [], []
    for table, missing in lacking:
        own = _names(table.frame)
        names += own
        shown = cut(", ".join(map(cut, own)), 200)
        told.append(
            f"{table.name} has no column that is known for the {', the '.join(missing)} (it has: "
            f"{shown})"
        )
    roles = list(dict.fromkeys(role for _, missing in lacking for role in missing))
    for role in roles:
        given = ",".join(getattr(options, role)) if role in options.model_fields_set else ""
        others = [column for other in tables for column in other.frame.columns]
        columns = ",".join("COLUMN" for _, missing in lacking if role in missing)  # one of each
        if given and find_column(others, given.split(",")) is not None:  # right in another file
            keys.append(f"--{role}={given},{columns}")
        else:
            keys.append(f"--{role}={given or columns}{nearest(given, names)}")
    order = "; without times: --time=none" if "time" in roles else ""
    header = "; without a header line: --columns=user,item,rating,time" if len(roles) > 1 else ""
    them = "it" if len(lacking) == 1 else "them"
    return f"{'; '.join(told)}: name {them} by {' '.join(keys)}{order}{header}"


def _described(table: Table) -> str:
    found = ", ".join(f"{role} = {column}" for role, column in table.columns.items())
    return f"{table.name}: {len(table.frame):,} rows; {found}"


# -- rows -----------------------------------------------------------------------------------------


def _rows(table: Table, options: ImportSettings) -> tuple[pd.DataFrame, str, str]:
    """Rows of one table that are complete, a line that describes it, and what its times are."""
    frame, columns = table.frame, table.columns
    rows = pd.DataFrame({role: as_ids(frame[columns[role]]) for role in ("user", "item")})
    unit, form = "rows in their order", options.time_format
    rows["time"] = np.arange(len(frame), dtype=np.float64)
    if "time" in columns:
        rows["time"], unit, form = _times(table, options)
    other = "" if form == options.time_format else f", not of the form {options.time_format}"
    rows["rating"], unrated = np.nan, ""
    if "rating" in columns:
        text = as_text(frame[columns["rating"]])
        rows["rating"] = pd.to_numeric(point_decimals(text), errors="coerce").astype(float)
        lost = text[rows["rating"].isna() & (text != "")]
        if options.min_rating is not None and rows["rating"].isna().all():
            given = cut(frame[columns["rating"]].iloc[0])
            raise DataError(
                f"{table.name}: no row has a readable rating in {columns['rating']} (such as "
                f"'{given}'): --rating=COLUMN names one of numbers, or leave out --min_rating"
            )
        if len(lost):
            unrated = f"; {len(lost):,} ratings are no numbers (such as '{cut(lost.iloc[0])}')"
    # RecBole's column of rows that were shown, and of those that were taken; goods sent back
    others = [column for column in frame.columns if column not in columns.values()]
    label = find_column(others, ("label", "clicked", "is_click", "quantity", "qty"))
    if label and (none := (pd.to_numeric(as_text(frame[label]), errors="coerce") <= 0).sum()):
        unrated += (
            f"; {none:,} rows have {label} 0 or less and count like the others (--rating={label} "
            "--min_rating=1 leaves them out)"
        )
    kinds = as_values(frame[kind]).value_counts() if (kind := find_column(others, _KINDS)) else ()
    if len(kinds) > 1:
        unrated += f"; rows of every {kind} count alike ({counted(kinds)})"
    rows["source"] = table.domain or table.source
    unread = {"user": rows["user"] == "", "item": rows["item"] == "", "time": rows["time"].isna()}
    for role, missing in unread.items():
        if missing.sum() > options.max_malformed * len(rows):
            column = columns.get("date", columns[role]) if role == "time" else columns[role]
            given = frame.loc[missing.to_numpy(), column]
            hint = _hint(given, unit, form) if role == "time" else ""
            share = math.ceil(100 * missing.mean()) / 100
            way_out = f"--max_malformed={share} leaves such rows out"
            way_out = way_out if share < 1 else f"--{role}=COLUMN names another column"
            raise DataError(
                f"{table.name}: {missing.sum():,} of {len(rows):,} rows have no readable {role} "
                f"in {column} (such as '{cut(given.iloc[0])}'){hint}; {way_out}"
            )
    bad = np.logical_or.reduce([missing.to_numpy() for missing in unread.values()])
    left_out = f"; {bad.sum():,} incomplete rows are left out" if bad.any() else ""
    alike = rows[rows.duplicated(["user", "time"], keep=False) & ~bad]
    tied = ""
    if len(alike) * 2 > len(rows):
        given = cut(frame[columns["time"]].iloc[alike.index[0]])
        tied = (
            f"; {len(alike):,} rows have the same time (such as '{given}') as others of their "
            "user, and stay in the order of the file: are the times rounded, or of whole orders?"
        )
    return rows[~bad], f"{_described(table)} ({unit}{other}){left_out}{unrated}{tied}", unit


def _times(table: Table, options: ImportSettings) -> tuple[pd.Series, str, str | None]:
    """Unix seconds, what they were, and the ``time_format`` that the table has.

    Those of a column of times of day are added to the days of another column.
    """
    column, known = table.columns["time"], table.frame.columns
    values = flatten(table.frame[column])
    day = find_column([name for name in known if name != column], _DATES)
    # 1900 need not be seven o'clock
    may_be = day and "time" not in options.model_fields_set
    may_be = may_be or values.astype(str).str.contains(":").any()
    if not may_be or (clock := time_of_day(values)) is None:
        return _read_in_form(values, options.time_format)
    if day is None:
        raise DataError(
            f"{table.name}: {column} holds times of day without a date (such as "
            f"'{cut(values.iloc[0])}'): --time=COLUMN names the dates"
        )
    table.columns["date"] = day
    days, unit, form = _read_in_form(flatten(table.frame[day]), options.time_format)
    days = days * 86_400 if unit == ORDER else days // 86_400 * 86_400
    return days + clock.fillna(0), unit, form


def _read_in_form(values: pd.Series, form: str | None) -> tuple[pd.Series, str, str | None]:
    """Read times as :func:`read_times`; those of which hardly any has the form, without one."""
    times, unit = read_times(values, form)
    if form and times.count() * 10 < len(times):  # another file has it
        others, of_others = read_times(values, None)
        if of_others != ORDER and others.count() * 10 > 9 * len(others):
            return others, of_others, None
    return times, unit, form


def _hint(unread: pd.Series, unit: str, form: str | None) -> str:
    unread = unread[as_values(unread) != ""]
    if unread.empty:
        return ""
    if pd.to_numeric(unread[:1].astype(str), errors="coerce").notna().all():
        other = "other numbers and those " if unit.startswith(NAIVE) else "numbers "
        return f": beside {unit}, {other}before 1990 or after 2100 are no times"
    if read_times(unread[:1], form)[0].notna().all():
        return f": beside {unit}, those up to 1970-01-02 or after 2100 stand for unknown times"
    others = f"; if other files need {form}, write these as 2020-12-31 12:00" if form else ""
    return f"; dates of another form need --time_format, {format_hint(unread)}{others}"
