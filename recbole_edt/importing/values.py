"""Values of columns as text: ids and names, lists and objects, numbers with decimal commas."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pandas as pd
from pandas.api.types import is_float

from recbole_edt.errors import DataError
from recbole_edt.io.atomic import cut
from recbole_edt.prepare.records import Malformed, parse_metadata

# how databases and pandas write that there is no value
_NO_VALUE = (r"\N", "NULL", "null", "nan", "NaN", "None", "<NA>")
_NO_ID = ("NA", "N/A", "n/a", "#N/A", "(not set)")  # NA may be a domain: North America
_ROUNDED = r"\d(?:[.,]\d+)?[eE]\+\d+"  # long numbers as spreadsheets show them


def as_text(values: pd.Series) -> pd.Series:
    """Values as text without line breaks and tabs; missing ones are empty."""
    if pd.api.types.is_float_dtype(values):
        known = values.dropna()
        if ((known % 1 == 0) & (known.abs() < 2**63)).all():
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
    text = as_values(values)
    text = text.mask(text.isin(_NO_ID), "")
    found = pd.Series(text.unique(), dtype=object)
    rounded = found[found.str.fullmatch(_ROUNDED)]
    if len(rounded):
        raise DataError(
            f"column {values.name} holds rounded numbers in place of ids (such as "
            f"'{rounded.iloc[0]}'), as spreadsheets write long ones: export the column as text"
        )
    floats = (found.str.fullmatch(r"\d+\.0") | (found == "")).all()
    return text.str.removesuffix(".0") if floats else text


def as_values(values: pd.Series) -> pd.Series:
    """Names as text, of users, items or domains: those that stand for no value are empty."""
    text = as_text(values)
    return text.mask(text.isin(_NO_VALUE), "")


def flatten(values: pd.Series) -> pd.Series:
    """Flatten values as :func:`flatten_decoded`; none if some hold bytes that are not UTF-8."""
    try:
        return flatten_decoded(values)
    except DataError:  # pictures, or text of another encoding
        return pd.Series(None, values.index, dtype=object, name=values.name)


def flatten_decoded(values: pd.Series) -> pd.Series:
    """Write lists as ``a | b``, mappings as ``key: value; ...``, and bytes as text.

    Raises
    ------
    DataError
        If some hold bytes that are not UTF-8.
    """
    if not _may_be_nested(values):
        return values
    try:
        return values.astype(object).map(_flat)
    except UnicodeDecodeError as error:
        raise DataError(
            f"column {values.name} holds bytes that are not utf-8 text (such as "
            f"{cut(error.object)}): decode them, or leave the column out"
        ) from error


def _flat(value: object) -> object:
    if isinstance(value, bytes):  # as Parquet has text that is not marked as such
        return value.decode()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        return " | ".join(str(_flat(one)) for one in value if one not in (None, ""))
    if isinstance(value, dict):
        if len(value) == 1 and (key := next(iter(value))) in ("$date", "$oid", "$numberLong"):
            return _flat(value[key])  # as MongoDB has it
        return "; ".join(f"{key}: {_flat(one)}" for key, one in value.items() if one is not None)
    return value


def point_decimals(text: pd.Series) -> pd.Series:
    """Write numbers of a column with decimal commas, such as 1.299,90, with points: 1299.90."""
    if not text.str.contains(r"\d,(?:\d{1,2}|\d{4,})(?![\d,])").any():
        return text
    return text.str.replace(r"\.(?=\d{3}(?!\d))", "", regex=True).str.replace(",", ".")


def explode(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Make a row of each value of the lists in a column, which may be text of JSON or Python."""
    values = frame[column]
    is_text = isinstance(values.dtype, pd.StringDtype)
    if _may_be_nested(values) or (is_text and values.str.startswith(("[", "{")).any()):
        values = values.astype(object).map(_nested)
        return frame.assign(**{column: values}).explode(column, ignore_index=True)
    return frame


def _may_be_nested(values: pd.Series) -> bool:
    nested = isinstance(values.dtype, pd.ArrowDtype) and values.dtype.kind == "O"
    return nested or values.dtype == object


def _nested(value: object) -> object:
    """Read a text of a list or an object; an object is a list of one."""
    if isinstance(value, str) and value.startswith(("[", "{")):
        with suppress(Malformed):
            value = parse_metadata(f'{{"": {value}}}'.encode())[""]
    return [value] if isinstance(value, dict) else value
