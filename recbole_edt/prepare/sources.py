"""Locations of the raw files of two domains: pairs, editions and addresses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbole_edt.errors import ConfigError
from recbole_edt.io.paths import properties_dir
from recbole_edt.settings import nearest


@dataclass(frozen=True)
class DomainSource:
    """Raw files of one domain."""

    domain: str
    category: str  # Amazon's name of the domain
    metadata: str  # how metadata lines are written: json or python
    base_url: str
    reviews: str  # paths below the address
    items: str


@cache
def _properties() -> dict[str, Any]:
    path = properties_dir() / "prepare" / "amazon.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pair_names() -> list[str]:
    """Names of the known pairs."""
    return list(_properties()["pairs"])


def pair_sources(pair: str, edition: int, base_url: str | None = None) -> list[DomainSource]:
    """Look up the raw files of both domains; ``base_url`` is a mirror to use instead."""
    pairs, editions = _properties()["pairs"], _properties()["editions"]
    if pair not in pairs:
        known = ", ".join(pairs)
        raise ConfigError(f"unknown pair '{pair}' (known: {known}){nearest(pair, pairs)}")
    if edition not in editions:
        raise ConfigError(f"unknown edition '{edition}' (known: {', '.join(map(str, editions))})")
    entry = editions[edition]
    address = (base_url or entry["base_url"]).rstrip("/")
    return [
        DomainSource(domain, category, entry["metadata"], address,
                     *(entry[what].format(category=category) for what in ("reviews", "items")))
        for domain, category in pairs[pair].items()
    ]  # fmt: skip


def local_file(folder: Path, path: str) -> Path:
    """Find a raw file in a local folder: by its path or its name, gzipped or not."""
    if not folder.is_dir():
        raise ConfigError(f"the source folder {folder} does not exist")
    name = Path(path).name
    for relative in (path, path.removesuffix(".gz"), name, name.removesuffix(".gz")):
        if (folder / relative).is_file():
            return folder / relative
    raise ConfigError(f"{folder} holds neither {name} nor {name.removesuffix('.gz')}")
