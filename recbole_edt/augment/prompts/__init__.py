"""The prompts of appendix A.1 in our own words: one text file each, and the JSON they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, create_model

from recbole_edt.augment.llm.reading import Figure, Readable, Reply, Sentences, Several, Words
from recbole_edt.io.prices import read_price

_FOLDER = Path(__file__).parent
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")  # JSON in a template is safe: no bare word in braces

# What is said about a column where its name does not tell
_HINTS = {
    "price": "the price in dollars, as a number, or null where you cannot tell",
    "categories": "categories from the broad one to the narrow one",
}
_TITLES = ("name", "product_name", "product")  # what models call a title
_FIELDS: dict[str, Any] = {
    "price": (Figure, None),
    "categories": (Annotated[list[Words], Several], []),
}


class GeneratedItems(Reply):
    """Answer to ``generate.txt``."""

    elements = "items"


def generated_items(columns: Sequence[str]) -> type[GeneratedItems]:
    """Answer to ``generate.txt`` whose items have these attributes."""
    fields = {column: _FIELDS.get(column, (Words, "")) for column in columns}
    others = (name for name in _TITLES if name not in columns)
    fields["title"] = (Words, Field(validation_alias=AliasChoices("title", *others)))
    item: Any = Annotated[create_model("Item", __base__=Reply, **fields), Readable]
    items: Any = (Annotated[list[item], Readable, Several], Field(min_length=1))
    return create_model("Items", __base__=GeneratedItems, items=items)


def item_form(example: Mapping[str, str]) -> dict[str, str]:
    """Values of ``generate.txt`` that depend on the attributes of items.

    Parameters
    ----------
    example : mapping
        Texts of an item's columns: the form of an answer is shown filled in with them. Small
        models copy whatever stands in a form; a real item is told as a copy, and asked for again.
    """
    forms: dict[str, Any] = {
        "price": read_price,
        "categories": lambda text: text.split(" | ") if text else [],
    }
    item = {column: forms.get(column, str)(text) for column, text in example.items()}
    hints = "; ".join(_HINTS[column] for column in example if column in _HINTS)
    return {
        "form": json.dumps({"items": [item]}, ensure_ascii=False),
        "hints": f" ({hints})" if hints else "",
    }


class Text(Reply):
    """Answer to ``analyse.txt`` and ``naive.txt``."""

    text: Sentences


class Texts(Reply):
    """Answer to ``summarise.txt``."""

    elements = "texts"
    texts: Annotated[list[Sentences], Several] = Field(min_length=1)


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
