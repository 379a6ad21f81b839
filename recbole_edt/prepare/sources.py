"""Locations of the raw files of two domains: pairs, editions and addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbole_edt.errors import ConfigError
from recbole_edt.io.paths import properties_dir
from recbole_edt.prepare.settings import PrepareCommand
from recbole_edt.settings import nearest


@dataclass(frozen=True)
class DomainSource:
    """Raw files of one domain."""

    domain: str
    category: str  # Amazon's name of the domain
    base_url: str
    reviews: Sequence[str]  # paths below the address; any of them will do, the first is downloaded
    items: str


@cache
def _properties() -> dict[str, Any]:
    path = properties_dir() / "prepare" / "amazon.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pair_names() -> list[str]:
    """Names of the known pairs."""
    return list(_properties()["pairs"])


def pair_sources(options: PrepareCommand) -> list[DomainSource]:
    """Look up the raw files of both domains."""
    editions = _properties()["editions"]
    if options.edition not in editions:
        known = ", ".join(map(str, editions))
        raise ConfigError(f"unknown edition '{options.edition}' (known: {known})")
    entry = editions[options.edition]
    address = (options.base_url or entry["base_url"]).rstrip("/")
    default = [5, 0] if options.source else [5]
    cores = default if options.core is None else [options.core]
    reviews = [path for core in cores for path in entry["reviews"][core]]
    return [
        DomainSource(domain, category, address,
                     [path.format(category=category) for path in reviews],
                     entry["items"].format(category=category))
        for domain, category in _categories(options, entry["categories"].split()).items()
    ]  # fmt: skip


def _categories(options: PrepareCommand, known: Sequence[str]) -> dict[str, str]:
    """Name of each domain -> Amazon's name of its category."""
    pairs = _properties()["pairs"]
    if options.categories is None:
        if options.pair not in pairs:
            names = ", ".join(pairs)
            hint = nearest(str(options.pair), pairs)
            raise ConfigError(
                f"unknown pair '{options.pair}' (known: {names}; others by --categories=A,B){hint}"
            )
        return pairs[options.pair]
    for category in options.categories:
        if category not in known:
            raise ConfigError(
                f"edition {options.edition} has no category '{category}'"
                f"{nearest(category, known)} (it has: {', '.join(known)})"
            )
    return {category.lower(): category for category in options.categories}


def local_file(folder: Path, paths: Sequence[str]) -> Path:
    """Find one of several raw files in a local folder: by path or name, gzipped or not."""
    if not folder.is_dir():
        raise ConfigError(f"the source folder {folder} does not exist")
    for path in paths:
        name = Path(path).name
        for relative in (path, path.removesuffix(".gz"), name, name.removesuffix(".gz")):
            if (folder / relative).is_file():
                return folder / relative
    names = list(dict.fromkeys(Path(path).name for path in paths))
    plain = [name.removesuffix(".gz") for name in names]
    raise ConfigError(f"{folder} holds neither {', '.join(names)} nor {', '.join(plain)}")
