"""Times as files have them: Unix times of any unit, dates, times of day beside dates."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from recbole_edt.errors import ConfigError
from recbole_edt.io.times import PER_SECOND, SPAN, UNITS, unix_unit

_DATES = (172_800, SPAN[1])  # dates before, up to that of 0, or after stand for unknown ones
_DIGITS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_EXCEL = (20_000, 80_000)  # days since the end of 1899: 1954 to 2119

NAIVE, SOME = "dates", "dates, some with a zone"
ORDER = "numbers that are no Unix times from 1990 on: they only order the rows"
_ZONE = re.compile(r"[T:]\d\d.*(?:Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)$")
_CLOCK = r"^([01]?\d|2[0-3]):?([0-5]\d)(?::?([0-5]\d(?:\.\d+)?))?\s*(?:([AaPp])\.?[Mm]\.?)?$"
_FORMS = [  # that pandas does not guess
    f"{day} %I:%M{second} %p" for day in ("%d/%m/%Y", "%m/%d/%Y") for second in ("", ":%S")
] + ["%a %b %d %H:%M:%S %z %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%y", "%Y年%m月%d日"]


def read_times(values: pd.Series, form: str | None) -> tuple[pd.Series, str]:
    """Unix seconds of numbers or dates, NaN where unreadable, and what they were.

    The unit of a number is told by its size. Numbers that are no Unix times between 1990 and 2100
    in any unit, such as 0 for an unknown time, are unreadable, and so are dates up to 1970-01-02 or
    after 2100, such as 9999-12-31. If more than 90% are, all stay as they are, and numbers only
    order the rows.
    """
    if isinstance(values.dtype, pd.PeriodDtype):
        values = values.dt.start_time
    text = values.astype(str).str.strip()
    if form is None and not pd.api.types.is_datetime64_any_dtype(values):
        numbers = pd.to_numeric(values, errors="coerce").astype(float)
        numbers = numbers.where(np.isfinite(numbers))
        if numbers.notna().sum() * 2 > (values.notna() & (text != "")).sum():
            return _read_numbers(numbers, text[numbers.notna()].str.removesuffix(".0"))
        values = text.str.replace(r"\s*(?:UTC|GMT)$", "", regex=True)  # as some databases write
    elif form and not re.search("%[YyGcxs]", form):
        raise ConfigError(f"time_format '{form}' has no year (%Y): --time names a column of dates")
    try:
        dates = pd.to_datetime(values, format=form or "ISO8601", errors="coerce", utc=True)
    except ValueError as error:
        raise ConfigError(f"time_format '{form}': {error}") from error
    zoned = (text.str.contains(_ZONE) | ("%z" in (form or "").lower()))[dates.notna()]
    unit = NAIVE if not zoned.any() else "dates with a zone" if zoned.all() else SOME
    return _seconds(dates, values.index), unit


def _read_numbers(numbers: pd.Series, written: pd.Series) -> tuple[pd.Series, str]:
    dates = pd.Series(dtype="datetime64[s, UTC]")
    digits = written[written.str.fullmatch(r"(?:19|20)\d*")].str.len()
    most = digits[digits == digits.mode().max()]
    days = numbers[numbers.between(*_EXCEL)]
    if len(most) * 2 > len(written) and (form := _DIGITS.get(most.iloc[0])):
        dates = pd.to_datetime(written[most.index], format=form, errors="coerce", utc=True)
    elif len(days) >= 0.9 * len(written) and (days % 1 > 0).any():
        dates = pd.to_datetime(days, unit="D", origin="1899-12-30", utc=True).dt.round("s")
    if dates.count() * 2 > len(written):
        return _seconds(dates, numbers.index), NAIVE
    unit = unix_unit(numbers)
    seconds = numbers / PER_SECOND[unit]
    real = seconds.between(*SPAN)
    if real.sum() * 10 < len(written):
        return numbers, ORDER
    return seconds.where(real), " and ".join(UNITS[one] for one in np.unique(unit[real]))


def _seconds(dates: pd.Series, index: pd.Index) -> pd.Series:
    """Unix seconds of dates, without those that stand for unknown ones unless most do."""
    # in nanoseconds, pandas' own unit, the year 9999 overflows
    since = dates - pd.Timestamp(0, tz="UTC").as_unit("s")
    seconds = (since / pd.Timedelta(seconds=1).as_unit("s")).reindex(index)
    real = seconds.between(*_DATES)
    return seconds if real.sum() * 10 < seconds.count() else seconds.where(real)


def time_of_day(values: pd.Series) -> pd.Series | None:
    """Seconds since midnight of times such as 19:00, 7:05 PM or 1900; None if most are others."""
    text = values.astype(str).str.strip()
    parts = text.mask(text.str.isdecimal(), text.str.zfill(4)).str.extract(_CLOCK)
    if parts[0].notna().sum() * 2 <= (values.notna() & (text != "")).sum():
        return None
    hours, minutes, seconds = (parts[place].astype(float) for place in range(3))
    half = parts[3].str.lower()
    hours = hours.where(half.isna(), hours % 12) + 12 * (half == "p")
    return 3600 * hours + 60 * minutes + seconds.fillna(0)


def format_hint(unread: pd.Series) -> str:
    """Name the ``time_format`` that reads most of some dates; two if day and month look alike."""
    text = unread.head(1000).astype(str).str.strip()
    orders = (False,) if re.match(r"\d{4}", text.iloc[0]) else (True, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # day and month are tried both ways
        forms = [guess_datetime_format(text.iloc[0], dayfirst=first) for first in orders]
    read = {
        form: pd.to_datetime(text, format=form, errors="coerce", utc=True).count()
        for form in filter(None, [*forms, *_FORMS])
    }
    if not (most := max(read.values(), default=0)):
        return "with %d, %m, %Y and %H:%M for day, month, year and time"
    return "such as " + " or ".join(f"'{form}'" for form, n in read.items() if n == most)
