"""What is said of an item, and when two items are the same one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd


def item_text(row: Mapping[str, object]) -> str:
    """Say in words what is known of an item (the content of the paper's item prompt, A.1).

    Parameters
    ----------
    row : mapping
        Attributes by column name: ``domain`` and, where known, ``title``, ``brand``, ``price``,
        ``categories``, ``description``. Missing ones (absent, empty or NaN) are left out.
    """
    domain, title, brand, price, categories, description = (
        _known(row, key)
        for key in ("domain", "title", "brand", "price", "categories", "description")
    )
    sentences = [
        f"A product of the {domain} domain" + (f": {title}." if title else "."),
        f"Made by {brand}." if brand else "",
        f"Sold at {float(price):.2f} dollars." if price else "",
        f"Listed under {', '.join(categories.split(' | '))}." if categories else "",
        f"What the seller says: {description}" if description else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def item_list(records: Sequence[Mapping[str, object]], lines: Iterable[int]) -> str:
    """Items as the lines of a prompt."""
    return "\n".join(f"- {item_text(records[line])}" for line in lines)


def _known(row: Mapping[str, object], key: str) -> str:
    value = row.get(key)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return " ".join(str(value).split())


class Catalogue:
    """Items by name, so that the same thing is one item for everybody.

    Two items are the same when their domain and full name agree but for case, spaces and
    punctuation; the full name is the brand, then the title, and a brand that the title begins with
    counts once. A model that names no brand means the first item of that title.
    """

    def __init__(self, items: pd.DataFrame, domains: Sequence[str]) -> None:
        self.domains = domains
        self.size = len(items)
        self.new_items: list[dict[str, Any]] = []
        self._named: dict[tuple[str, str], int] = {}
        self._titled: dict[tuple[str, str], int] = {}
        for line, record in enumerate(items.to_dict("records")):
            if record.get("title"):
                self._enter(record, line)

    def _enter(self, record: Mapping[str, Any], line: int) -> None:
        domain = str(record["domain"])
        self._named.setdefault((domain, _full_name(record)), line)
        self._titled.setdefault((domain, _plain(record.get("title"))), line)

    def line(self, item: Mapping[str, Any], domain: int) -> int:
        """Line of an item that a model described: the catalogue's, or a new one."""
        name = self.domains[domain]
        found = self._named.get((name, _full_name(item)))
        if found is None and not _plain(item["brand"]):
            found = self._titled.get((name, _plain(item["title"])))
        if found is None:
            found = self.size + len(self.new_items)
            record = _record(item, name)
            self.new_items.append(record)
            self._enter(record, found)
        return found


def _full_name(item: Mapping[str, Any]) -> str:
    brand, title = _plain(item.get("brand")), _plain(item.get("title"))
    return title if f"{title} ".startswith(f"{brand} ") else f"{brand} {title}".strip()


def _plain(text: object) -> str:
    """Reduce a name to its words."""
    return " ".join(re.findall(r"\w+", str(text or "").casefold()))


def _record(item: Mapping[str, Any], domain: str) -> dict[str, Any]:
    """Attributes of a generated item as ``.item`` holds them."""
    price = item.get("price")
    return {
        "domain": domain,
        "title": _line(item["title"]),
        "brand": _line(item["brand"]),
        "price": "" if price is None else f"{float(price):.2f}",
        "categories": " | ".join(_line(part) for part in item["categories"]),
        "description": _line(item["description"]),
    }


def described(record: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Describe a line of ``.item`` under another title, as a model describes what it generates."""
    return {
        "title": title,
        "brand": record.get("brand", ""),
        "price": float(record["price"]) if record.get("price") else None,
        "categories": str(record.get("categories", "")).split(" | "),
        "description": record.get("description", ""),
    }


def _line(text: object) -> str:
    """Bring a text onto one line, as an atomic file needs it; control characters go."""
    printable = (c if c.isprintable() else " " for c in str(text or ""))
    return " ".join("".join(printable).replace('"', "''").split())
