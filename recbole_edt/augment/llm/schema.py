"""Checking JSON against the small part of JSON Schema that prompts need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recbole_edt.augment.llm.requests import well_formed


class Mismatch(Exception):
    """A value that does not keep its schema; the message says where and why."""


def conform(value: Any, schema: Mapping[str, Any], place: str = "the answer") -> Any:
    """Check a value, and mend what can be mended without guessing.

    Understood are ``type`` (one or a list; ``object``, ``array``, ``string``, ``number``,
    ``integer``, ``boolean``, ``null``), ``properties``, ``required``, ``items``, ``minItems``,
    ``maxItems``, ``minLength`` and ``minimum``. Mended are: a list without the object that should
    hold it, one element without its list, a figure written as text ("$12.50"), a number where text
    is wanted, null where a text may be empty, a list that is too long. Properties that the schema
    does not name are dropped.

    Parameters
    ----------
    value : object
        What ``json`` read.
    schema : mapping
        The schema.
    place : str
        How messages call the value.

    Returns
    -------
    object
        The value as the schema wants it.

    Raises
    ------
    Mismatch
        If it cannot be had.
    """
    wanted = schema.get("type", [])
    kinds = [wanted] if isinstance(wanted, str) else list(wanted)
    if not kinds:
        return value
    if value is None and "null" in kinds:
        return None
    for kind in kinds:
        found = _as_kind(value, kind, schema)
        if found is not None:
            return _WITHIN.get(kind, _within_nothing)(found, schema, place)
    raise Mismatch(f"{place} must be {' or '.join(kinds)}")


def _as_kind(value: Any, kind: str, schema: Mapping[str, Any]) -> Any | None:
    """The value as this JSON type, or None where it cannot be read as such."""
    if kind == "object":
        return _as_object(value, schema)
    if kind == "array":
        return _as_array(value, schema)
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "string":
        return _as_text(value, schema)
    return _as_number(value, kind)


def _as_object(value: Any, schema: Mapping[str, Any]) -> dict | None:
    """Wrap what belongs under the only property of an object."""
    properties = schema.get("properties", {})
    if len(properties) == 1:
        ((name, inner),) = properties.items()
        is_element = isinstance(value, dict) and name not in value and inner.get("type") == "array"
        if isinstance(value, list) or is_element:
            return {name: value}
    return value if isinstance(value, dict) else None


def _as_array(value: Any, schema: Mapping[str, Any]) -> list | None:
    """Wrap a single element; text must not be taken for one that was cut off a list of objects."""
    if isinstance(value, list):
        return value
    kind = schema.get("items", {}).get("type")
    single = {"object": dict, "string": str}.get(kind) if isinstance(kind, str) else None
    if single is None or not isinstance(value, single):
        return None
    return [value] if value else []


def _as_text(value: Any, schema: Mapping[str, Any]) -> str | None:
    if isinstance(value, str):
        return well_formed(value)
    if value is None and not schema.get("minLength"):
        return ""
    is_figure = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_figure else None


def _as_number(value: Any, kind: str) -> int | float | None:
    if isinstance(value, str):
        value = value.strip().lstrip("$").replace(",", "")
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if number is None or not math.isfinite(number):
        return None
    if kind == "integer":
        return int(number) if number.is_integer() else None
    return number


def _within_object(value: dict, schema: Mapping[str, Any], place: str) -> dict:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise Mismatch(f"{place} lacks '{name}'")
    return {
        name: conform(value[name], inner, f"'{name}' in {place}")
        for name, inner in properties.items()
        if name in value
    }


def _within_array(value: list, schema: Mapping[str, Any], place: str) -> list:
    least = schema.get("minItems", 0)
    if len(value) < least:
        raise Mismatch(f"{place} must hold at least {least}, not {len(value)}")
    value = value[: schema.get("maxItems")]
    inner = schema.get("items", {})
    return [conform(element, inner, f"element {n} of {place}") for n, element in enumerate(value)]


def _within_text(value: str, schema: Mapping[str, Any], place: str) -> str:
    if len(value.strip()) < schema.get("minLength", 0):
        raise Mismatch(f"{place} must not be empty")
    return value.strip()


def _within_number(value: float, schema: Mapping[str, Any], place: str) -> float:
    if value < schema.get("minimum", -math.inf):
        raise Mismatch(f"{place} must be at least {schema['minimum']}")
    return value


def _within_nothing(value: Any, schema: Mapping[str, Any], place: str) -> Any:
    return value


_WITHIN: dict[str, Any] = {
    "object": _within_object,
    "array": _within_array,
    "string": _within_text,
    "number": _within_number,
    "integer": _within_number,
}
