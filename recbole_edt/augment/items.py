"""Items as text, and when two descriptions name the same item."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd


def item_text(row: Mapping[str, object]) -> str:
    """Describe an item in words (the content of the paper's item prompt, A.1).

    Parameters
    ----------
    row : mapping
        Attributes by column name: ``domain`` and, where known, ``title``, ``brand``, ``price``,
        ``categories``, ``description``. Absent and empty ones are left out.
    """
    domain, title, brand, price, categories, description = (
        " ".join(str(row.get(key) or "").split())
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


class Catalogue:
    """Items by name, so that the same item is shared by all users.

    Two items are the same when their domain and full name agree but for case, spaces and
    punctuation. The full name is the brand, then the title, without a brand that the title begins
    with. A description without a brand means the first item of that title.
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
        if found is None and not _plain(item.get("brand")):
            found = self._titled.get((name, _plain(item["title"])))
        if found is None:
            found = self.size + len(self.new_items)
            price = item.get("price")
            record = {
                "domain": name,
                "title": _line(item["title"]),
                "brand": _line(item.get("brand")),
                "price": "" if price is None else f"{float(price):.2f}",
                "categories": " | ".join(map(_line, item["categories"])),
                "description": _line(item.get("description")),
            }
            self.new_items.append(record)
            self._enter(record, found)
        return found


def _full_name(item: Mapping[str, Any]) -> str:
    brand, title = _plain(item.get("brand")), _plain(item.get("title"))
    return title if f"{title} ".startswith(f"{brand} ") else f"{brand} {title}".strip()


def _plain(text: object) -> str:
    """Reduce a name to its words."""
    return " ".join(re.findall(r"\w+", str(text or "").casefold()))


def _line(text: object) -> str:
    """Collapse a text into one line without control characters."""
    printable = (c if c.isprintable() else " " for c in str(text or ""))
    return " ".join("".join(printable).replace('"', "''").split())
