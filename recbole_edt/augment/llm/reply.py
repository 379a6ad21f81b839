"""Models of what a chat model is asked to write, mended where it is clear what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator


class Mismatch(Exception):
    """An answer that is not what was asked for; the message says where and why."""


class Reply(BaseModel):
    """Base of the JSON objects that prompts ask for; undeclared fields are dropped."""

    model_config = ConfigDict(
        extra="ignore", coerce_numbers_to_str=True, str_strip_whitespace=True, frozen=True
    )


class ListReply(Reply):
    """Base of objects that hold one list; the list, or its only element, may stand alone."""

    @model_validator(mode="before")
    @classmethod
    def _under_the_only_field(cls, value: Any) -> Any:
        (name,) = cls.model_fields
        is_element = isinstance(value, dict) and name not in value
        return {name: value} if is_element or isinstance(value, list) else value


def _from_null(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    return "" if value is None else value


def _from_text(value: Any) -> Any:
    """Read a figure written as text ("$1,299.50"); truth is no figure."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value.strip().lstrip("$").replace(",", "") if isinstance(value, str) else value


def _from_single(value: Any) -> Any:
    """Put one element into a list."""
    if isinstance(value, dict | str):
        return [value] if value else []
    return value


Words = Annotated[str, BeforeValidator(_from_null)]
"""Text; null is empty, a figure is its text."""

Figure = Annotated[float, BeforeValidator(_from_text), Field(ge=0, allow_inf_nan=False)]
"""A number of at least 0."""

Several = BeforeValidator(_from_single)
"""Marks a list of which one element alone may be written."""


def well_formed(text: str) -> str:
    """Replace what no UTF-8 can carry, such as half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def conform(value: Any, reply: type[Reply]) -> dict[str, Any]:
    """Check a JSON value.

    Returns
    -------
    dict
        The fields of the reply.

    Raises
    ------
    Mismatch
        If the value is not such a reply.
    """
    try:
        return reply.model_validate(value).model_dump()
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    raise Mismatch(_sentence(problem))


def _sentence(problem: Mapping[str, Any]) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f" {part}" for part in problem["loc"])
    if problem["type"] == "missing":
        return f"the answer lacks{place}"
    said = problem["msg"].removeprefix("Value error, ")
    return f"in the answer{place or ' itself'}: {said[0].lower()}{said[1:]}"
