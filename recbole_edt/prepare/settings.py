"""Settings of ``recbole-edt prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from recbole_edt.settings import Amount, Count, Name, Probability, Settings


class PrepareCommand(Settings, use_attribute_docstrings=True):
    """What to make of which raw files."""

    pair: Name
    edition: int = 2014
    """2014 or 2018"""
    source: Name | None = None
    """folder of raw files (gzipped or plain) to read instead of downloading them"""
    base_url: Name | None = None
    """mirror to download from"""
    output_path: Name = "dataset"
    """receives PAIR/ and, in .downloads/, the raw files"""
    cross_listed: Literal["listed", "reviewed"] = "listed"
    """items of both domains leave both: listed, if the reviews or the metadata of both domains
    hold them; reviewed, if the reviews do"""
    repeated: Literal["first", "all"] = "first"
    """of several reviews of an item by one user keep the first, or all"""
    min_item_rows: Count = 5
    """k-core: least rows of an item"""
    min_user_rows: Count = 5
    """k-core: least rows of a user, over both domains"""
    min_rows_per_domain: Amount = 0
    """least rows of a user in each domain that they have rows in"""
    users: Literal["all", "both"] = "all"
    """all users, or those with rows in both domains"""
    max_rows: Amount = 0
    """keep a user's last rows only, 0 = all rows"""
    description_length: Amount = 500
    """longest description of an item, in characters"""
    max_malformed: Probability = 0.01
    """share of unreadable lines above which a file is refused"""

    @model_validator(mode="after")
    def _check_source(self) -> PrepareCommand:
        if self.source and self.base_url:
            raise ValueError("--source and --base_url cannot both be set")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://, not '{self.base_url}'")
        return self

    @property
    def target(self) -> Path:
        """Folder of the data set."""
        return Path(self.output_path, self.pair)

    def recorded(self) -> dict[str, Any]:
        """Settings that decide what the files hold, apart from the raw files."""
        elsewhere = {"pair", "source", "base_url", "output_path", "max_malformed"}
        return {**self.model_dump(exclude=elsewhere), "edition": str(self.edition)}
