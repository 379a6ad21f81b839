"""Tables of rows and of items as one: columns found, times read, a domain for every row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api.types import is_float

from recbole_edt.errors import ConfigError, DataError
from recbole_edt.importing.settings import ImportSettings
from recbole_edt.importing.times import (
    NAIVE,
    ORDER,
    SOME,
    format_hint,
    read_times,
    time_of_day,
)
from recbole_edt.prepare.records import Malformed, parse_metadata
from recbole_edt.settings import nearest

# how databases and pandas write that there is no value
_NO_VALUE = (r"\N", "NULL", "null", "nan", "NaN", "None", "<NA>")
_NO_ID = ("NA", "N/A", "n/a", "#N/A", "(not set)")  # NA may be a domain: North America
_ROUNDED = r"\d(?:[.,]\d+)?[eE]\+\d+"  # long numbers as spreadsheets show them
_KINDS = ("event", "event_type", "event_name", "behavior", "behaviour", "action", "action_type")
_GUEST = 0.05, 10  # share of all rows, and times the mean, above which a user may be many
_FEW = 100  # values of a column that may be one of domains
_SIGNS = r"[|,;:>/.\[\]{}]"  # between the parts of lists and paths of categories
_ROLES = ("user", "item", "time", "rating", "title", "domain")
# beside a column of times of day
_DATES = ("date", "day", "event_date", "order_date", "purchase_date", "review_date")


@dataclass
class Table:
    """A table as it was read."""

    name: str  # of the file, for messages
    source: str  # what the domain is called if the files are told apart by it
    domain: str | None  # as the user gave it
    frame: pd.DataFrame
    columns: dict[str, str] = field(default_factory=dict)  # what was recognised: role -> column


@dataclass
class Collected:
    """All rows, and the tables that say more about items."""

    rows: pd.DataFrame  # user, item, time, rating, domain; text and numbers, in the files' order
    interactions: list[Table]
    items: list[Table]
    steps: dict[str, int]  # step -> rows after it
    notes: list[str]  # what was recognised or left out, a line each


def find_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """Find the first of some names among columns; case and punctuation do not count."""
    # of columns that are alike the first counts
    known = {key: column for column in [*columns][::-1] for key in (column, _plain(column))}
    keys = (key for name in names for key in (name, _plain(name)))
    return next((known[key] for key in keys if key in known), None)


def _plain(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name).lower())


def as_text(values: pd.Series) -> pd.Series:
    """Values as text without line breaks and tabs; missing ones are empty."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")  # ids that were floats for a missing one among them
    codes, found = pd.factorize(flatten(values))
    texts = [" ".join(str(value).replace("\0", " ").split()) for value in found]
    return pd.Series(np.array([*texts, ""], dtype=object)[codes], index=values.index)


def as_ids(values: pd.Series) -> pd.Series:
    """Ids as text: words for no value are empty, and 12.0 is 12 if a float, or if all are alike.

    Raises
    ------
    DataError
        If a spreadsheet has rounded some to numbers such as 7.65612E+16.
    """
    if values.dtype == object:  # floats among texts, as pandas reads long files
        values = values.map(lambda one: str(one).removesuffix(".0") if is_float(one) else one)
    text = as_values(values, _NO_VALUE + _NO_ID)
    found = pd.Series(text.unique(), dtype=object)
    rounded = found[found.str.fullmatch(_ROUNDED)]
    if len(rounded):
        raise DataError(
            f"column {values.name} holds rounded numbers in place of ids (such as "
            f"'{rounded.iloc[0]}'), as spreadsheets write long ones: export the column as text"
        )
    floats = (found.str.fullmatch(r"\d+\.0") | (found == "")).all()
    return text.str.removesuffix(".0") if floats else text


def _bare(values: pd.Series) -> pd.Series:
    return as_values(values).str.removesuffix(".0")


def as_values(values: pd.Series, none: tuple[str, ...] = _NO_VALUE) -> pd.Series:
    """Names as text, of users, items or domains: those that stand for no value are empty."""
    text = as_text(values)
    return text.mask(text.isin(none), "")


def cut(value: object, most: int = 80) -> str:
    """A value as messages quote it: on one line, and cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most]}..."


def flatten(values: pd.Series) -> pd.Series:
    """Values of a column as :func:`flat` has them; none if some hold bytes that are not UTF-8."""
    try:
        return _flattened(values)
    except UnicodeDecodeError:  # pictures, or text of another encoding
        return pd.Series(None, values.index, dtype=object, name=values.name)


def _flattened(values: pd.Series) -> pd.Series:
    nested = isinstance(values.dtype, pd.ArrowDtype) and values.dtype.kind == "O"
    return values.astype(object).map(flat) if nested or values.dtype == object else values


def flat(value: object) -> object:
    """Lists as ``a | b``, mappings as ``key: value; ...``, bytes as text; others as they are."""
    if isinstance(value, bytes):  # as Parquet has text that is not marked as such
        return value.decode()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        return " | ".join(str(flat(one)) for one in value if one not in (None, ""))
    if isinstance(value, dict):
        if len(value) == 1 and (key := next(iter(value))) in ("$date", "$oid", "$numberLong"):
            return flat(value[key])  # as MongoDB has it
        return "; ".join(f"{key}: {flat(one)}" for key, one in value.items() if one is not None)
    return value


def point_decimals(text: pd.Series) -> pd.Series:
    """Write numbers of a column with decimal commas, such as 1.299,90, with points: 1299.90."""
    if not text.str.contains(r"\d,(?:\d{1,2}|\d{4,})(?![\d,])").any():
        return text
    return text.str.replace(r"\.(?=\d{3}(?!\d))", "", regex=True).str.replace(",", ".")


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
    rows["domain"], note = _domains(rows, interactions, items, options)
    notes.append(note)
    names = _two_domains(rows["domain"], options)
    known = set(rows["item"])
    for table in items:
        _take_off_domains(table, names, known, options)
        if known.isdisjoint(ids := as_ids(table.frame[column := table.columns["item"]])):
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
        for role in _ROLES:
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
        if (item := table.columns.get("item")) and _may_be_nested(table.frame[item]):
            table.frame = _explode(table.frame, item)  # baskets: lists of ids
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
        others = options.model_fields_set.intersection(_ROLES)
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
    return max(found, key=lambda column: _bare(table.frame[column]).isin(known).sum())


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
        _flattened(values)
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
            own.intersection(other.frame), key=lambda name: not _plain(name).endswith("id")
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


def unfold(frame: pd.DataFrame, options: ImportSettings) -> pd.DataFrame:
    """Give the values of nested objects columns of their own where an option names one.

    ``--user=buyer.id`` takes ``id`` of the objects in the column ``buyer``, which is replaced by
    ``buyer.id`` and a column of each of its other keys. A row whose column holds a list of objects,
    such as the lines of an order, becomes one of each.
    """
    named = [name for role in _ROLES for name in getattr(options, role) or ()]
    for column in frame.columns:
        if column not in named and any(name.startswith(f"{column}.") for name in named):
            frame = _explode(frame, column)
            objects = [value if isinstance(value, dict) else {} for value in frame[column]]
            parts = pd.DataFrame(objects, frame.index, dtype=object).add_prefix(f"{column}.")
            new = parts.columns.difference(frame.columns, sort=False)
            return unfold(frame.drop(columns=column).join(parts[new]), options)
    return frame


def _may_be_nested(values: pd.Series) -> bool:
    text = isinstance(values.dtype, pd.StringDtype)
    return bool(values.str.startswith("[").any()) if text else values.dtype == object


def _explode(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Make a row of each value of the lists in a column."""
    return frame.assign(**{column: frame[column].map(_nested)}).explode(column, ignore_index=True)


def _nested(value: object) -> object:
    """A list or, in a list of its own, an object; either may be text of JSON or Python."""
    if isinstance(value, str) and value.startswith(("[", "{")):
        with suppress(Malformed):
            value = parse_metadata(f'{{"": {value}}}'.encode())[""]
    return [value] if isinstance(value, dict) else value


def _names(frame: pd.DataFrame) -> list[str]:
    """Names of the columns, of those that hold objects with the keys of the first."""
    out = []
    for column in frame.columns:
        values = _explode(frame[[column]].head(1000), column)[column]
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
    others = set(frame.columns) - set(columns.values())
    label = find_column(others, ("label", "clicked", "is_click", "quantity", "qty"))
    if label and (none := (pd.to_numeric(as_text(frame[label]), errors="coerce") <= 0).sum()):
        unrated += (
            f"; {none:,} rows have {label} 0 or less and count like the others (--rating={label} "
            "--min_rating=1 leaves them out)"
        )
    kinds = as_values(frame[kind]).value_counts() if (kind := find_column(others, _KINDS)) else ()
    if len(kinds) > 1:
        unrated += f"; rows of every {kind} count alike ({_counted(kinds)})"
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


# -- domains --------------------------------------------------------------------------------------


def _domains(
    rows: pd.DataFrame,
    interactions: Sequence[Table],
    items: Sequence[Table],
    options: ImportSettings,
) -> tuple[pd.Series, str]:
    """Domain of every row, and where it comes from: the user, a column, or the files."""
    named = [table for table in interactions if table.domain]
    if named and len(named) < len(interactions):
        other = next(table for table in interactions if not table.domain)
        raise ConfigError(f"name the domain of {other.name}, too: DOMAIN={other.name}")
    if named:
        return rows["source"], "domains: as named"
    seen, many = "", False
    for name in options.domain:
        found = _column_values(name, rows, interactions, items)
        if found is None:
            continue
        found, note = _of_lists(_same_case(found), options.domains or ())
        counts = found[found != ""].value_counts()
        if counts.empty:
            one = cut(rows["item"].iloc[0])
            seen = seen or f"column {name} says nothing of the items of the rows (such as '{one}')"
            continue
        chosen = "domain" in options.model_fields_set and options.domains
        if len(counts) == 2 or chosen or set(options.domains or ()) & set(counts.index):
            for table in (*interactions, *items):
                if column := find_column(table.frame.columns, (name,)):
                    table.columns["domain"] = column
            return found, f"domains: column {name} ({_counted(counts)}){note}"
        seen = seen or f"column {name} has {len(counts)} values ({_counted(counts)})"
        many = many or len(counts) > 2
    by_file = [set(own) for _, own in rows["item"].groupby(rows["source"])]
    # files of mostly the same items beside a column of domains: days, say
    days = seen and 2 * len(set.intersection(*by_file)) > min(map(len, by_file))
    if len(by_file) == 2 and "domain" not in options.model_fields_set and not days:
        sources = {table.source for table in interactions}
        for table in (*interactions, *items):  # items of the same folder, or of a file of both
            table.domain = table.source if table.source in sources else None
        return rows["source"], "domains: by the names of the files"
    if "domain" in options.model_fields_set and not seen:
        known = {column for table in (*interactions, *items) for column in table.frame.columns}
        name = options.domain[0]
        raise DataError(f"no file has a column '{name}' of the domain{nearest(name, known)}")
    few = {column: flatten(table.frame[column]).nunique() for table in (*items, *interactions)
           for column in table.frame if column not in table.columns.values()}  # fmt: skip
    few = {column: n for column, n in few.items() if 1 < n <= _FEW}
    such = f" (such as {cut(', '.join(sorted(few, key=lambda one: few[one])), 200)})" if few else ""
    hint = f"--domain=COLUMN names a column that holds it{such}"
    hint = "--domains=A,B chooses two" if many else hint
    raise DataError(
        f"the domains are unknown: {seen or 'no column names two'}: {hint}, A=FILE B=FILE names "
        "that of each file"
    )


def said_domain(table: Table, names: Iterable[str], options: ImportSettings) -> pd.Series:
    """Domain, of ``names``, that a column of a table says of each row; empty where none does."""
    known = {name.casefold(): name for name in names}
    columns = [find_column(table.frame.columns, (name,)) for name in options.domain]
    for column in filter(None, [] if table.domain else columns):
        said = _first_of(as_values(table.frame[column]).str.casefold(), known)
        if (said != "").any():
            return said
    return pd.Series("", table.frame.index, dtype=object)


def _column_values(
    name: str, rows: pd.DataFrame, interactions: Sequence[Table], items: Sequence[Table]
) -> pd.Series | None:
    """Values of a column of rows, or of items, for every row; None if there is none."""
    columns = [(table, find_column(table.frame.columns, (name,))) for table in interactions]
    if all(column and column not in table.columns.values() for table, column in columns):
        parts = [as_values(table.frame[column]) for table, column in columns]
        return pd.Series(pd.concat(parts).to_numpy()[rows["at"]], index=rows.index)
    known: dict[str, str] = {}
    for table in items:
        if column := find_column(table.frame.columns, (name,)):
            ids = as_ids(table.frame[table.columns["item"]])
            values = as_values(table.frame[column])
            known = dict(zip(ids[::-1], values[::-1], strict=True)) | known
    return rows["item"].map(known).fillna("") if known else None


def _of_lists(domains: pd.Series, names: Sequence[str]) -> tuple[pd.Series, str]:
    """Put one of the two names in place of lists that hold it, and say so."""
    for sign in (_SIGNS, r"\s"):
        named = _first_of(domains, {name: name for name in names}, sign)
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


def _two_domains(domains: pd.Series, options: ImportSettings) -> list[str]:
    counts = domains[domains != ""].value_counts()
    for name in options.domains or ():
        if name not in counts:
            raise ConfigError(
                f"no row is of the domain '{name}'{nearest(name, counts.index)} "
                f"(there are {_counted(counts)})"
            )
    names = sorted(options.domains or counts.index)
    if (n := len(set(names))) != 2:
        lower = "" if options.min_rating is None else ", or lower --min_rating"
        is_chosen = n > 2 or options.domains
        hint = "--domains=A,B chooses two" if is_chosen else f"add another, DOMAIN=FILE{lower}"
        raise DataError(
            f"there are {n} domains ({_counted(counts)}), and exactly two are needed: {hint}"
        )
    return names


def _counted(counts: pd.Series) -> str:
    shown = [f"{cut(name)} {count:,} rows" for name, count in counts.head(8).items()]
    return ", ".join([*shown, "..."][: len(counts) + (len(counts) > 8)])
