"""Tables as they were read, and their columns: which is the user, the item, the time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

import pandas as pd

from recbole_edt.errors import DataError
from recbole_edt.importing.settings import ImportSettings
from recbole_edt.importing.values import as_ids, as_values, explode, flatten, flatten_decoded
from recbole_edt.io.atomic import cut
from recbole_edt.settings import nearest

_ROLES = ("user", "item", "time", "rating", "title", "domain")  # each is an option of names


@dataclass
class Table:
    """A table as it was read."""

    name: str  # of the file, for messages
    source: str  # what the domain is called if the files are told apart by it
    domain: str | None  # as the user gave it
    frame: pd.DataFrame
    columns: dict[str, str] = field(default_factory=dict)  # what was recognised: role -> column
    times: str = "rows in their order"  # what its times are
    notes: list[str] = field(default_factory=list)  # what was found in its rows
    said: pd.Series = field(init=False)  # domain of each row that a column says; else empty

    @property
    def has_users(self) -> bool:
        """Whether the table holds rows of users; else it describes items."""
        return "user" in self.columns

    def find(self, names: Sequence[str]) -> str | None:
        """Find the first of some names among the columns; case and punctuation do not count."""
        return find_column(self.frame.columns, names)

    def ids(self) -> pd.Series:
        """Item of each row, as text."""
        return as_ids(self.frame[self.columns["item"]])

    def attributes(self) -> list[str]:
        """Columns that may describe an item: those of no role but the title."""
        keys = {column for role, column in self.columns.items() if role != "title"}
        return [column for column in self.frame if column not in keys]


def find_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """Find the first of some names among columns; case and punctuation do not count."""
    # of columns that are alike the first counts
    known = {key: column for column in [*columns][::-1] for key in (column, _plain(column))}
    keys = (key for name in names for key in (name, _plain(name)))
    return next((known[key] for key in keys if key in known), None)


def _plain(name: object) -> str:
    """Letters and digits of a name, in lower case."""
    return re.sub(r"[\W_]+", "", str(name).lower())


def distinct(names: Iterable[str]) -> list[str]:
    """Number the names that were there before, as pandas does: a, a.1."""
    found: dict[str, None] = {}
    for name in names:
        free = (f"{name}.{n}" if n else name for n in count())
        found[next(one for one in free if one not in found)] = None
    return list(found)


def recognise(tables: Sequence[Table], options: ImportSettings) -> None:
    """Find the columns of tables, and so which hold rows of users and which describe items.

    Raises
    ------
    DataError
        If a column is missing, is there twice, or holds what cannot be read.
    """
    for table in tables:
        _find_columns(table, options)
    for table in tables:
        if not table.has_users:
            _set_column(table, "item", _joining_column(table, tables, options))
            _set_column(table, "title", table.find(options.title))
    _check_found(tables, options)
    known = [column for table in tables for column in table.frame.columns]
    for role in {"title", "rating"} & options.model_fields_set:
        if find_column(known, names := options.names(role)) is None:
            near = nearest(names[0], known)
            raise DataError(f"no file has a column '{names[0]}' of the {role}{near}")


def _find_columns(table: Table, options: ImportSettings) -> None:
    """Lay out a table as plain columns, and find those of rows of users if it has any."""
    named = any(name is not None for name in table.frame.index.names)
    frame = table.frame.reset_index(drop=not named, allow_duplicates=True)
    given = list(map(str, frame.columns))
    frame.columns = pd.Index(distinct(given))
    table.frame = _unfold(frame, options)
    for role in _ROLES:
        column = table.find(options.names(role))
        if column is None:
            continue
        if given.count(column) > 1:
            raise DataError(f"{table.name} has several columns '{cut(column)}': keep one of them")
        flatten_decoded(table.frame[column])
    if (user := _user_column(table, options)) is None:
        return
    table.columns["user"] = user
    for role in ("item", "time", "rating"):
        _set_column(table, role, table.find(options.names(role)))
    if item := table.columns.get("item"):
        table.frame = explode(table.frame, item)  # baskets: lists of ids
    for role in ("user", "item"):
        _check_no_objects(table, role)


def _unfold(frame: pd.DataFrame, options: ImportSettings) -> pd.DataFrame:
    """Replace a column of objects, of which an option names a key (buyer.id), by one of each key.

    A row that holds a list of objects, such as the lines of an order, becomes one of each.
    """
    named = [name for role in _ROLES for name in options.names(role)]
    for column in frame.columns:
        if column not in named and any(name.startswith(f"{column}.") for name in named):
            frame = explode(frame, column)
            objects = [value if isinstance(value, dict) else {} for value in frame[column]]
            parts = pd.DataFrame(objects, frame.index, dtype=object).add_prefix(f"{column}.")
            new = parts.columns.difference(frame.columns, sort=False)
            return _unfold(frame.drop(columns=column).join(parts[new]), options)
    return frame


def _set_column(table: Table, role: str, column: str | None) -> None:
    if column is not None and column not in table.columns.values():
        table.columns[role] = column


def _user_column(table: Table, options: ImportSettings) -> str | None:
    """Find the column of the user, which a key may name for something else: --item=uid."""
    columns = list(table.frame.columns)
    if "user" not in options.model_fields_set:
        others = options.model_fields_set & {"item", "time", "rating"}
        taken = {table.find(options.names(role)) for role in others}
        columns = [column for column in columns if column not in taken]
    return find_column(columns, options.user)


def _joining_column(table: Table, tables: Sequence[Table], options: ImportSettings) -> str | None:
    """Find the column of a table of items that holds most ids of the rows; else the first."""
    columns = (table.find([name]) for name in (*options.item, "id"))
    found = list(dict.fromkeys(filter(None, columns)))
    if len(found) < 2:
        return next(iter(found), None)

    def ids(table: Table, column: str) -> set[str]:
        return set(as_values(table.frame[column]).str.removesuffix(".0")) - {""}

    of_rows = [one for one in tables if one.has_users and "item" in one.columns]
    known = set().union(*(ids(one, one.columns["item"]) for one in of_rows))
    return max(found, key=lambda column: len(known & ids(table, column)))


def _check_no_objects(table: Table, role: str) -> None:
    """Refuse ids that are objects: what they say of a user changes from row to row."""
    if (column := table.columns.get(role)) is None:
        return
    names = _names(table.frame[[column]])
    if names[0] != column and not names[0].startswith(f"{column}.$"):  # as MongoDB has ids
        keys = cut(" or ".join(f"--{role}={name}" for name in names), 200)
        raise DataError(f"{table.name}: {column} holds objects: name a value of them, {keys}")


def _names(frame: pd.DataFrame) -> list[str]:
    """Names of the columns, of those that hold objects with the keys of the first."""
    out = []
    for column in frame.columns:
        values = explode(frame[[column]].head(1000), column)[column]
        objects = (value for value in values if isinstance(value, dict))
        out += [f"{column}.{key}" for key in next(objects, {})] or [column]
    return out


def _check_found(tables: Sequence[Table], options: ImportSettings) -> None:
    """Refuse tables that lack a column, and say what to do."""
    needed = ["user", "item"] + ["time"] * bool(options.time)
    needed += ["rating"] * (options.min_rating is not None)
    largest = max(tables, key=lambda table: len(table.frame))
    no_rows = not any(table.has_users for table in tables)
    # by columns: files of the same ones are named once
    lacking: dict[tuple[str, ...], tuple[Table, list[str]]] = {}
    reasons: dict[str, None] = {}
    for table in tables:
        has_item = "item" in table.columns
        reason = "" if table.has_users else _why_rows(table, tables, options)
        roles = needed if table.has_users or reason else [] if has_item else ["item"]
        if no_rows and (table is largest or not has_item):
            roles = needed  # which file holds the rows is not known
        missing = [
            role
            for role in roles  # a column of the user that a key names for something else is none
            if role not in table.columns
            and (role == "user" or table.find(options.names(role)) is None)
        ]
        if missing and (columns := tuple(table.frame.columns)) not in lacking:
            lacking[columns] = table, missing
            reasons[reason or _apart(table, tables)] = None
    if lacking:
        told = [_unknown([*lacking.values()], options, tables), *reasons]
        raise DataError("; ".join(filter(None, told)))


def _why_rows(table: Table, tables: Sequence[Table], options: ImportSettings) -> str:
    """Say why a table without users seems to hold rows of users and no items; empty if not."""
    time, item = table.find(options.names("time")), table.columns.get("item")
    if time and (table.domain or (item and flatten(table.frame[item]).duplicated().any())):
        times = {one.columns["time"] for one in tables if "time" in one.columns}
        way_out = f"leave out its column {time}"
        if times and time not in times:
            way_out = f"say --time={','.join(sorted(times))}, as the rows have it"
        return f"if {table.name} is a table of items, {way_out}"
    domains = {one.domain for one in tables if one.has_users and one.domain}
    wanted = options.domains is None or table.domain in options.domains
    if table.domain and wanted and domains and table.domain not in domains:
        return f"no other file has rows of {table.domain}"
    return ""


def _apart(table: Table, tables: Sequence[Table]) -> str:
    """Name a column that joins a table without items to another; or what else it may be."""
    if "item" in table.columns:
        return ""
    own = set(table.frame) - {table.columns.get("user")}
    for other in tables:
        shared = own.intersection(other.frame)
        if other is table or not shared:
            continue
        column = min(shared, key=lambda name: (not name.lower().endswith("id"), name))
        if "item" in other.columns:
            return f"if {column} joins it to {other.name}, join the two first (docs/data.md)"
        return f"is {column}, which several files have, the item (--item={column})?"
    others = any({"user", "item"} <= other.columns.keys() for other in tables)
    return f"if {table.name} describes users, leave it out" if others else ""


def _unknown(
    lacking: Sequence[tuple[Table, list[str]]], options: ImportSettings, tables: Sequence[Table]
) -> str:
    """Say which columns are not found in which files, and how to name them."""
    told, names, keys = [], [], []
    for table, missing in lacking:
        own = _names(table.frame)
        names += own
        told.append(
            f"{table.name} has no column that is known for the {', the '.join(missing)} (it has: "
            f"{cut(', '.join(map(cut, own)), 200)})"
        )
    roles = list(dict.fromkeys(role for _, missing in lacking for role in missing))
    for role in roles:
        given = ",".join(options.names(role)) if role in options.model_fields_set else ""
        columns = ",".join("COLUMN" for _, missing in lacking if role in missing)  # one of each
        if given and any(table.find(options.names(role)) for table in tables):  # right elsewhere
            keys.append(f"--{role}={given},{columns}")
        else:
            keys.append(f"--{role}={given or columns}{nearest(given, names)}")
    order = "; without times: --time=none" if "time" in roles else ""
    header = "; without a header line: --columns=user,item,rating,time" if len(roles) > 1 else ""
    them = "it" if len(lacking) == 1 else "them"
    return f"{'; '.join(told)}: name {them} by {' '.join(keys)}{order}{header}"
