"""Which raw files make a data set: pairs of domains, editions, and the options' defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recbole_edt.errors import ConfigError
from recbole_edt.io.paths import properties_dir
from recbole_edt.settings import nearest


class RawFile(NamedTuple):
    """One upstream file: its path below the base address, and its sha256 where that is known."""

    path: str
    sha256: str | None

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class DomainSource:
    """Raw files of one domain.

    Attributes
    ----------
    domain : str
        Name of the domain in the atomic files.
    category : str
        Amazon's name of it.
    reviews, items : RawFile
        Reviews (JSON lines) and metadata.
    """

    domain: str
    category: str
    reviews: RawFile
    items: RawFile


@dataclass(frozen=True)
class PairSource:
    """Everything that names the raw data of one pair.

    Attributes
    ----------
    pair, edition : str
        Such as ``cloth_sport`` and ``2014``.
    base_url : str
        Address of the folder that holds the files.
    metadata : str
        How metadata lines are written: ``json`` or ``python``.
    domains : tuple of DomainSource
        Domain A and domain B.
    """

    pair: str
    edition: str
    base_url: str
    metadata: str
    domains: tuple[DomainSource, DomainSource]


@cache
def _properties() -> dict[str, Any]:
    path = properties_dir() / "prepare" / "amazon.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def default_options() -> dict[str, Any]:
    """Defaults of the command's options, as the property file documents them."""
    return dict(_properties()["options"])


def pair_names() -> list[str]:
    """Names of the known pairs."""
    return list(_properties()["pairs"])


def pair_source(pair: str, edition: str, base_url: str | None = None) -> PairSource:
    """Look up where the raw files of a pair lie.

    Parameters
    ----------
    pair, edition : str
        Such as ``cloth_sport`` and ``2014``.
    base_url : str, optional
        A mirror to use instead of the edition's own address.

    Raises
    ------
    ConfigError
        If the pair or the edition is unknown, or the address is not http(s).
    """
    pairs = _properties()["pairs"]
    if pair not in pairs:
        raise ConfigError(
            f"unknown pair '{pair}' (known: {', '.join(pairs)}){nearest(pair, pairs)}"
        )
    editions = {str(name): value for name, value in _properties()["editions"].items()}
    if edition not in editions:
        raise ConfigError(f"unknown edition '{edition}' (known: {', '.join(editions)})")
    entry = editions[edition]
    base_url = (base_url or entry["base_url"]).rstrip("/")
    if not base_url.startswith(("http://", "https://")):
        raise ConfigError(f"base_url must start with http:// or https://, not '{base_url}'")
    first, second = (
        DomainSource(
            domain, category, _raw(entry, "reviews", category), _raw(entry, "items", category)
        )
        for domain, category in pairs[pair].items()
    )
    return PairSource(pair, edition, base_url, entry["metadata"], (first, second))


def _raw(entry: Mapping[str, Any], kind: str, category: str) -> RawFile:
    path = entry[kind].format(category=category)
    return RawFile(path, entry["sha256"].get(path.rpartition("/")[2]))


def local_file(folder: Path, raw: RawFile) -> Path:
    """Find a raw file in a local folder: by its path or its name, gzipped or not.

    Raises
    ------
    ConfigError
        If the folder or the file is not there.
    """
    if not folder.is_dir():
        raise ConfigError(f"the source folder {folder} does not exist")
    for relative in (raw.path, raw.name):
        for candidate in (folder / relative, folder / relative.removesuffix(".gz")):
            if candidate.is_file():
                return candidate
    raise ConfigError(f"{folder} holds neither {raw.name} nor {raw.name.removesuffix('.gz')}")
