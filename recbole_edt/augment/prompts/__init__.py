"""The prompts of appendix A.1 in our own words: one text file each, and the JSON they ask for."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")  # JSON in a template is safe: no bare word in braces

GENERATED_ITEMS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "title": {"type": "string", "minLength": 1},
                    "brand": {"type": ["string", "null"]},
                    "price": {"type": ["number", "null"], "minimum": 0},
                    "categories": {"type": "array", "items": {"type": "string"}},
                    "description": {"type": "string"},
                },
                "required": ["title", "brand", "price", "categories", "description"],
            },
        }
    },
    "required": ["items"],
}
"""Answer to ``generate.txt``."""

TEXT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 1}},
    "required": ["text"],
}
"""Answer to ``summarise.txt``, ``reform.txt``, ``analyse.txt`` and ``naive.txt``."""


def prompt(name: str, **values: object) -> str:
    """Fill in a template.

    Parameters
    ----------
    name : str
        ``system``, ``generate``, ``summarise``, ``reform``, ``analyse`` or ``naive``.
    **values : object
        One value for each ``{placeholder}`` of the template. Braces in a value are left alone.

    Raises
    ------
    ValueError
        If a placeholder has no value, or a value no placeholder.
    """
    template = _template(name)
    wanted = set(_PLACEHOLDER.findall(template))
    for what, names in (("lacks", wanted - set(values)), ("has no", set(values) - wanted)):
        if names:
            raise ValueError(f"prompt '{name}' {what} {', '.join(sorted(names))}")
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), template)


def imbalance(own: int, other: int) -> str:
    """Say in words how much a domain is of what a user bought (3.4.2): one of five texts.

    Parameters
    ----------
    own, other : int
        The user's items in the domain and in the other one; their |difference| over their sum
        is the paper's r.
    """
    total = own + other
    ratio = (own - other) / total if total else 0.0
    return next(text for bound, text in _imbalances() if ratio <= bound)


@cache
def _template(name: str) -> str:
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()


@cache
def _imbalances() -> tuple[tuple[float, str], ...]:
    lines = [line for line in _template("imbalance").splitlines() if not line.startswith("#")]
    pairs = (line.split("|", 1) for line in lines)
    return tuple((float(bound), text.strip()) for bound, text in pairs)
