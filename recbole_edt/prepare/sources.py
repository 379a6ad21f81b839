"""Locations of the raw files of two domains: pairs, editions and addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recbole_edt.errors import ConfigError
from recbole_edt.io.files import read_yaml
from recbole_edt.io.paths import properties_dir
from recbole_edt.prepare.records import read_lines
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
    return read_yaml(properties_dir() / "prepare" / "amazon.yaml")


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


def local_file(folder: Path, source: DomainSource, paths: Sequence[str]) -> Path:
    """Find one of several raw files in a local folder: by path or name, gzipped or not."""
    if not folder.is_dir():
        raise ConfigError(f"the source folder {folder} does not exist")
    if found := _find(folder, paths):
        return found
    names = list(dict.fromkeys(Path(path).name for path in paths))
    plain = [name.removesuffix(".gz") for name in names]
    hint = _other_files(folder, source)
    raise ConfigError(f"{folder} holds neither {', '.join(names)} nor {', '.join(plain)}{hint}")


def _find(folder: Path, paths: Sequence[str]) -> Path | None:
    names = [name for path in paths for name in (path, Path(path).name)]
    known = [name for path in names for name in (path, path.removesuffix(".gz"))]
    return next((folder / name for name in known if (folder / name).is_file()), None)


def _other_files(folder: Path, source: DomainSource) -> str:
    """Say which other reviews of the domain a folder holds, and how they are read."""
    if _find(folder, source.reviews):
        return ""  # the metadata are missing
    for edition, entry in _properties()["editions"].items():
        for core, paths in entry["reviews"].items():
            found = _find(folder, [path.format(category=source.category) for path in paths])
            if found and (".csv" not in found.suffixes or b"user" in next(read_lines(found), b"")):
                keys = f"--edition={edition} --core={core}"
                return f": {found.name} is a file of edition {edition}: {keys}"
    if ratings := sorted(folder.glob(f"*{source.category}.csv*")):
        columns = "--columns=user,item,rating,time (in the order of the file)"
        return f": {ratings[0].name} has ratings alone: recbole-edt import DOMAIN=FILE... {columns}"
    return ""
