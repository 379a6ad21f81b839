"""Tables of rows and of items as one: columns recognised, times read, a domain for every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbole_edt.errors import ConfigError, DataError
from recbole_edt.importing.domains import counted, find_domains, said_domain, two_domains
from recbole_edt.importing.settings import ImportSettings
from recbole_edt.importing.tables import Table, find_column, recognise
from recbole_edt.importing.times import NAIVE, ORDER, SOME, format_hint, read_times, time_of_day
from recbole_edt.importing.values import as_ids, as_text, as_values, flatten, point_decimals
from recbole_edt.io.atomic import cut

# a column of what happened, and RecBole's of what was taken of all that was shown; goods sent back
_KINDS = ("event", "event_type", "event_name", "behavior", "behaviour", "action", "action_type")
_LABELS = ("label", "clicked", "is_click", "quantity", "qty")
_GUEST = 0.05, 10  # share of all rows, and times the mean, above which a user may be many
# beside a column of times of day
_DATES = ("date", "day", "event_date", "order_date", "purchase_date", "review_date")


@dataclass
class Collected:
    """All rows, and the tables that say more about items."""

    rows: pd.DataFrame  # user, item, time, rating, source, domain; in the order of the files
    tables: list[Table]  # those of rows of users, then those of items
    steps: dict[str, int]  # step -> rows after it
    notes: list[str]  # what was recognised or left out, a line each


def collect(tables: Sequence[Table], options: ImportSettings) -> Collected:
    """Recognise the tables and put their rows together.

    Raises
    ------
    ConfigError, DataError
        If a column is not found, too many values cannot be read, or there are not two domains.
    """
    for domain in filter(None, (table.domain for table in tables)):
        if "\t" in domain or domain.splitlines() != [domain]:
            shown = cut(repr(domain))
            raise ConfigError(f"the name of a domain has a tab or a line break: {shown}")
    recognise(tables, options)
    interactions = [table for table in tables if table.has_users]
    items = [table for table in tables if not table.has_users]
    if options.time is None and len(interactions) > 1:
        raise ConfigError("--time=none needs all rows of users in one file, in their order")
    rows = pd.concat([_rows(table, options) for table in interactions], ignore_index=True)
    zones = _compared(interactions)
    notes = ["; ".join(table.notes) for table in interactions]
    notes += ["; ".join([f"{_described(table)}, of items", *table.notes]) for table in items]
    notes += zones
    steps = {"read": len(rows)}
    rows = rows[rows.pop("complete")]
    if rows.empty:
        raise DataError(f"no row of {interactions[0].name} has a user, an item and a time")
    users = rows["user"].value_counts()
    if users.iloc[0] > max(_GUEST[0] * len(rows), _GUEST[1] * users.mean()):
        notes.append(
            f"user '{cut(users.index[0])}' has {users.iloc[0]:,} of {len(rows):,} rows: if that "
            "stands for unknown ones, such as guests, take its rows out of the files"
        )
    if len(rows) < steps["read"]:
        steps["complete"] = len(rows)
    if options.min_rating is not None:
        rows = rows[rows["rating"] >= options.min_rating].copy()
        steps[f"rated {options.min_rating:g} or more"] = len(rows)
        if rows.empty:
            raise DataError(f"no row is rated {options.min_rating:g} or more: lower --min_rating")
    rows["domain"], note = find_domains(rows, tables, options)
    notes.append(note)
    names = two_domains(rows["domain"], options)
    for table in tables:
        table.said = said_domain(table, names, options)
    known = rows["item"].unique()
    for table in items:
        notes += _join_ids(table, known)
    of_both = rows[rows["domain"].isin(names)].reset_index(drop=True)
    if len(of_both) < len(rows):
        steps["of both domains"] = len(of_both)
    return Collected(of_both, [*interactions, *items], steps, notes)


def _compared(tables: Sequence[Table]) -> list[str]:
    """Refuse times that cannot be compared, and note those without a zone beside exact ones."""
    order = [table.name for table in tables if table.times == ORDER]
    naive = [table.name for table in tables if table.times in (NAIVE, SOME)]
    exact = [table.name for table in tables if table.times not in (NAIVE, ORDER)]
    if order and (others := [*naive, *exact]):
        raise DataError(
            f"the times of {order[0]} are {ORDER}, and cannot be compared with those of "
            f"{others[0]}: name a column of times by --time=COLUMN"
        )
    if not (naive and exact):
        return []
    return [
        f"times without a zone, such as those of {naive[0]}, are read as UTC beside exact "
        f"ones, such as those of {exact[-1]}: write local times with their zone (+01:00)"
    ]


def _join_ids(table: Table, known: np.ndarray) -> list[str]:
    """Write ids of an earlier import, ``books:7``, as the rows have them; note a table of none."""
    ids, column = table.ids(), table.columns["item"]
    if ids.empty or ids.isin(known).any():
        return []
    pairs = zip(ids, table.said, strict=True)
    bare = pd.Series([one.removeprefix(f"{of}:") for one, of in pairs], ids.index, dtype=object)
    if bare.isin(known).any():
        table.frame[column] = bare
        return []
    return [
        f"{table.name} describes no item of the rows: its {column} has ids such as "
        f"'{cut(ids.iloc[0])}', the rows '{cut(known[0])}'; --item=COLUMN,COLUMN names the columns "
        "of all files"
    ]


def _described(table: Table) -> str:
    found = ", ".join(f"{role} = {column}" for role, column in table.columns.items())
    return f"{table.name}: {len(table.frame):,} rows; {found}"


def _rows(table: Table, options: ImportSettings) -> pd.DataFrame:
    """Rows of a table, and whether they are ``complete``; notes on them are the table's."""
    frame, columns = table.frame, table.columns
    rows = pd.DataFrame({"user": as_ids(frame[columns["user"]]), "item": table.ids()})
    rows["time"], form = np.arange(len(frame), dtype=np.float64), options.time_format
    if "time" in columns:
        rows["time"], table.times, form = _times(table, options)
    unread = {"user": rows["user"] == "", "item": rows["item"] == "", "time": rows["time"].isna()}
    for role, missing in unread.items():
        if missing.sum() > options.max_malformed * len(rows):
            column = columns.get("date", columns[role]) if role == "time" else columns[role]
            given = frame.loc[missing, column]
            hint = _hint(given, table.times, form) if role == "time" else ""
            share = math.ceil(100 * missing.mean()) / 100
            way_out = f"--max_malformed={share} leaves such rows out"
            way_out = way_out if share < 1 else f"--{role}=COLUMN names another column"
            raise DataError(
                f"{table.name}: {missing.sum():,} of {len(rows):,} rows have no readable {role} "
                f"in {column} (such as '{cut(given.iloc[0])}'){hint}; {way_out}"
            )
    other = "" if form == options.time_format else f", not of the form {options.time_format}"
    table.notes.insert(0, f"{_described(table)} ({table.times}{other})")
    rows["complete"] = ~pd.DataFrame(unread).any(axis=1)
    if n_bad := (~rows["complete"]).sum():
        table.notes.append(f"{n_bad:,} incomplete rows are left out")
    rows["rating"] = _ratings(table, options) if "rating" in columns else np.nan
    rows["source"] = table.domain or table.source
    _note_uncounted(table)
    alike = rows[rows.duplicated(["user", "time"], keep=False) & rows["complete"]]
    if len(alike) * 2 > len(rows):
        given = cut(frame[columns["time"]].iloc[alike.index[0]])
        table.notes.append(
            f"{len(alike):,} rows have the same time (such as '{given}') as others of their "
            "user, and stay in the order of the file: are the times rounded, or of whole orders?"
        )
    return rows


def _ratings(table: Table, options: ImportSettings) -> pd.Series:
    """Ratings of the rows, NaN where there is none."""
    given = table.frame[table.columns["rating"]]
    text = as_text(given)
    ratings = pd.to_numeric(point_decimals(text), errors="coerce").astype(float)
    if options.min_rating is not None and ratings.isna().all():
        raise DataError(
            f"{table.name}: no row has a readable rating in {given.name} (such as "
            f"'{cut(given.iloc[0])}'): --rating=COLUMN names one of numbers, or leave out "
            "--min_rating"
        )
    if len(lost := text[ratings.isna() & (text != "")]):
        table.notes.append(f"{len(lost):,} ratings are no numbers (such as '{cut(lost.iloc[0])}')")
    return ratings


def _note_uncounted(table: Table) -> None:
    """Note columns that say that not every row is an item taken: clicks, returns, events."""
    others = table.attributes()
    if label := find_column(others, _LABELS):
        numbers = pd.to_numeric(as_text(table.frame[label]), errors="coerce")
        if none := (numbers <= 0).sum():
            table.notes.append(
                f"{none:,} rows have {label} 0 or less and count like the others "
                f"(--rating={label} --min_rating=1 leaves them out)"
            )
    if kind := find_column(others, _KINDS):
        kinds = as_values(table.frame[kind]).value_counts()
        if len(kinds) > 1:
            table.notes.append(f"rows of every {kind} count alike ({counted(kinds)})")


def _times(table: Table, options: ImportSettings) -> tuple[pd.Series, str, str | None]:
    """Unix seconds, what they were, and the ``time_format`` that the table has."""
    column = table.columns["time"]
    values = flatten(table.frame[column])
    day = find_column([name for name in table.frame if name != column], _DATES)
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
    is_read = read_times(unread[:1], form)[0].notna().all()
    if is_read and not unit.startswith(NAIVE):
        return f": the other rows hold {unit}: write all of them alike"
    if is_read:
        return f": beside {unit}, those up to 1970-01-02 or after 2100 stand for unknown times"
    others = f"; if other files need {form}, write these as 2020-12-31 12:00" if form else ""
    return f"; dates of another form need --time_format, {format_hint(unread)}{others}"
