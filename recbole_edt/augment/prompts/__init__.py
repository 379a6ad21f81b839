"""The prompts of appendix A.1 in our own words: one text file each, and the JSON they ask for."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from recbole_edt.augment.llm.reading import Figure, Reply, Several, Words

_FOLDER = Path(__file__).parent
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")  # JSON in a template is safe: no bare word in braces

ATTRIBUTES = "title, brand, price, categories and description, where known"
"""What items of a prompt are described by."""


class GeneratedItem(Reply):
    """An element of the answer to ``generate.txt``."""

    title: Words = Field(min_length=1)
    brand: Words
    price: Figure | None
    categories: Annotated[list[Words], Several]
    description: Words


class GeneratedItems(Reply):
    """Answer to ``generate.txt``; the list, or its only element, may stand alone."""

    items: Annotated[list[GeneratedItem], Several] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _under_items(cls, value: Any) -> Any:
        is_element = isinstance(value, dict) and "items" not in value
        return {"items": value} if is_element or isinstance(value, list) else value


class Text(Reply):
    """Answer to ``summarise.txt``, ``reform.txt``, ``analyse.txt`` and ``naive.txt``."""

    text: Words = Field(min_length=1)


def prompt(name: str, **values: object) -> str:
    """Fill in a template; a placeholder without a value is a ``KeyError``."""
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), _template(name))


def imbalance(own: int, other: int) -> str:
    """Say in words how much a domain is of what a user bought (3.4.2): one of five texts."""
    ratio = (own - other) / max(own + other, 1)
    lines = [line for line in _template("imbalance").splitlines() if not line.startswith("#")]
    pairs = (line.split("|", 1) for line in lines)
    return next(text.strip() for bound, text in pairs if ratio <= float(bound))


@cache
def _template(name: str) -> str:
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()
