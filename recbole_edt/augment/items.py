"""Items as text, and when two descriptions name the same item."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_edt.errors import ConfigError
from recbole_edt.io.atomic import read_columns
from recbole_edt.io.files import read_table
from recbole_edt.settings import nearest

_ALIKE = 0.8  # share of common words from which two titles name the same thing
_NO_TEXT = ("item_id", "domain", "generated", "unsold")  # ids, names and flags
_LONGEST_TITLE = 200  # characters; of the titles on Amazon 1% are longer
# Words of titles that name no product, such as "Item 1", "string" or "N/A"
_EMPTY_WORDS = frozenset(
    "a an and the of for no n na none null nan new your item items product products title "
    "name brand brands category categories domain string str text value example sample placeholder "
    "description unknown unnamed untitled tbd here".split()
)


def read_items(path: Path, chosen: Sequence[str] | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Read ``.item`` as text, and name the columns that describe an item.

    A column ``name`` is the title where there is no other.
    """
    types, items = read_columns(path, None), read_table(path)
    if "title" not in types and "name" in types:
        items = items.rename(columns={"name": "title"})
        types = {"title" if column == "name" else column: types[column] for column in types}
        chosen = chosen and ["title" if column == "name" else column for column in chosen]
    return items, described_columns(types, chosen, path.name)


def described_columns(
    types: Mapping[str, str], chosen: Sequence[str] | None, where: str
) -> list[str]:
    """Columns of ``.item`` that describe an item, the title first.

    They are the ``chosen`` ones, or all of type ``token`` and ``token_seq`` and the price.

    Raises
    ------
    ConfigError
        If a chosen column is missing.
    """
    known = [column for column in types if column not in _NO_TEXT]
    for column in chosen or ():
        if column not in known:
            raise ConfigError(f"{where}: there is no column '{column}'{nearest(column, known)}")
    texts = [column for column in known if not types[column].startswith("float")]
    described = chosen or [*texts, *({"price"} & set(known) - set(texts))]
    return sorted(described, key=lambda column: (column != "title", known.index(column)))


def item_text(row: Mapping[str, object]) -> str:
    """Describe an item in words (the content of the paper's item prompt, A.1).

    Parameters
    ----------
    row : mapping
        Attributes by column name: ``domain`` and, where known, ``title``, ``brand``, ``price``,
        ``categories``, ``description`` and any others, which come under their own names. Absent
        and empty ones are left out.
    """
    values = {column: " ".join(str(value or "").split()) for column, value in row.items()}
    title = values.pop("title", "")
    sentences = [
        f"A product of the {values.get('domain', '')} domain" + (f": {title}." if title else ".")
    ]
    for column, value in values.items():
        if value and column not in _NO_TEXT:
            sentences.append(_sentence(column, value))
    return " ".join(sentences)


def _sentence(column: str, value: str) -> str:
    if column == "brand":
        return f"Made by {value}."
    if column == "price":
        with suppress(ValueError):
            value = f"{float(value):.2f} dollars"
        return f"Sold at {value}."
    if column == "categories":
        return f"Listed under {', '.join(value.split(' | '))}."
    if column == "description":
        return f"What the seller says: {value}"
    return f"{column.replace('_', ' ').capitalize()}: {value.rstrip('.')}."


def count_without_text(items: pd.DataFrame) -> int:
    """Count the items without any text, of the columns that describe them."""
    text = items.drop(columns=[*_NO_TEXT, "price"], errors="ignore")
    return int((text == "").all(axis=1).sum())


class ItemLines:
    """Items as lines of a prompt: their attributes in a fixed order, without names.

    Parameters
    ----------
    items : DataFrame
        Text of the columns that describe an item. Only those that some item has are used.
    """

    def __init__(self, items: pd.DataFrame) -> None:
        texts = items.drop(columns=list(_NO_TEXT), errors="ignore").astype(str)
        self.columns = [column for column in texts if texts[column].str.strip().any()]
        self._rows = texts[self.columns].to_numpy()

    @property
    def attributes(self) -> str:
        """Say what stands in a line."""
        names = [column.replace("_", " ") for column in self.columns]
        return f"{' | '.join(names)}, where known" if names else "nothing is known of them"

    def list(self, lines: Iterable[int]) -> str:
        """Give items one line each."""
        return "\n".join(f"- {' | '.join(map(self._value, self._rows[line]))}" for line in lines)

    @staticmethod
    def _value(text: str) -> str:
        return " > ".join(" ".join(text.split()).split(" | ")) or "?"


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
            record = {"domain": name} | {column: _cell(value) for column, value in item.items()}
            self.new_items.append(record)
            self._enter(record, found)
        return found


def names_product(item: Mapping[str, Any], domains: Iterable[str] = ()) -> bool:
    """Whether the title of an item that a model wrote can be a product's.

    A title has at most 200 characters, is no address, and has a word that is no figure, no
    placeholder (``Item 1``, ``N/A``), and none of those of its own brand and categories and of the
    domains.
    """
    title = str(item.get("title") or "")
    if len(title) > _LONGEST_TITLE or "://" in title:
        return False
    told = _plain([item.get("brand"), item.get("categories"), *domains]).split()
    words = (word for word in _plain(title).split() if not word.isdigit())
    return not _EMPTY_WORDS.union(told).issuperset(words)


class Titles:
    """Titles of some items, to tell whether a description repeats one of them.

    It does if the titles agree but for brand, case, spaces and punctuation, or share nearly all of
    their words.
    """

    def __init__(self, items: Iterable[Mapping[str, Any]]) -> None:
        titles = {_bare_title(item): _plain(item.get("title")) for item in items}
        self._titles = {form for pair in titles.items() for form in pair if form}
        self._words = [frozenset(title.split()) for title in titles if title]

    def hold(self, item: Mapping[str, Any]) -> bool:
        """Whether an item is one of them."""
        title, bare = _plain(item.get("title")), _bare_title(item)
        if {title, bare} & self._titles:
            return True
        words = frozenset(bare.split())
        return any(len(words & own) >= _ALIKE * len(words | own) for own in self._words)


def _bare_title(item: Mapping[str, Any]) -> str:
    """Reduce a title to its words, without the brand that it begins with."""
    title, brand = _plain(item.get("title")), _plain(item.get("brand"))
    return title.removeprefix(f"{brand} ") if brand else title


def _full_name(item: Mapping[str, Any]) -> str:
    brand, title = _plain(item.get("brand")), _plain(item.get("title"))
    return title if f"{title} ".startswith(f"{brand} ") else f"{brand} {title}".strip()


def _plain(text: object) -> str:
    """Reduce a name to its words; "Men's" is "Mens"."""
    return " ".join(re.findall(r"\w+", re.sub("['\u2019]", "", str(text or "").casefold())))


def _cell(value: Any) -> str:
    """Write a value as the files have it."""
    if isinstance(value, int | float):
        return f"{value:.2f}"
    return " | ".join(map(_line, value)) if isinstance(value, list) else _line(value)


def _line(text: object) -> str:
    """Collapse a text into one line without control characters."""
    printable = (c if c.isprintable() else " " for c in str(text or ""))
    return " ".join("".join(printable).replace('"', "''").split())
