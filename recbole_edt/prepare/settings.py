"""Settings of ``recbole-edt prepare``, and the filters that ``import`` has as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from recbole_edt.settings import Amount, Count, FolderName, Name, Names, Probability, Settings


class FilterSettings(Settings, use_attribute_docstrings=True):
    """Which rows stay."""

    repeated: Literal["first", "exact", "all"] = "first"
    """of rows with the same user and item keep the first, one for each time (exact), or all"""
    min_item_rows: Count = 5
    """k-core: minimum rows of an item"""
    min_user_rows: Count = 5
    """k-core: minimum rows of a user, over both domains"""
    min_rows_per_domain: Amount = 0
    """minimum rows of a user in each domain that they have rows in"""
    users: Literal["all", "both"] = "all"
    """all users, or those with rows in both domains"""
    max_rows: Amount = 0
    """keep only so many of a user's last rows; 0: all"""
    max_malformed: Probability = 0.01
    """maximum share of unreadable or incomplete rows, which are left out; a file with more is
    refused"""


class _RawFiles(Settings, use_attribute_docstrings=True):
    """What is read, and where the data set goes."""

    pair: Name | None = None
    categories: Names | None = None
    """any two categories by Amazon's names, such as Books,Movies_and_TV, instead of PAIR"""
    dataset: FolderName | None = None
    """name of the data set (default: PAIR, or the names of the categories in lower case)"""
    edition: int = 2014
    """2014, 2018 or 2023"""
    core: Literal[5, 0] | None = None
    """files of reviews: those of the 5-core, or all (0) (default: 5, or what --source holds)"""
    source: Name | None = None
    """folder of raw files (gzipped or plain) to read instead of downloading them"""
    base_url: Name | None = None
    """mirror to download from"""
    output_path: Name = "dataset"
    """folder that receives the data set's folder and, in .downloads/, the raw files"""
    cross_listed: Literal["listed", "reviewed"] = "listed"
    """drop items that are in the reviews or metadata of both domains (listed), or in the reviews of
    both (reviewed)"""
    description_length: Amount = 500
    """maximum length of a description, in characters"""


class PrepareCommand(FilterSettings, _RawFiles):
    """What to make of which raw files."""

    @model_validator(mode="after")
    def _check_source(self) -> PrepareCommand:
        if self.pair and self.categories:
            raise ValueError("name either a pair or two --categories")
        if self.categories and len(set(self.categories)) != 2:
            raise ValueError("--categories must name two different ones: Books,Movies_and_TV")
        if self.source and self.base_url:
            raise ValueError("--source and --base_url cannot both be set")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://, not '{self.base_url}'")
        return self

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.dataset or self.pair or "_".join(self.categories or ()).lower()

    @property
    def target(self) -> Path:
        """Folder of the data set."""
        return Path(self.output_path, self.name)

    def recorded(self) -> dict[str, Any]:
        """Settings that decide what the files hold, apart from the raw files."""
        elsewhere = {"dataset", "source", "base_url", "output_path", "max_malformed"}
        if self.dataset in (None, self.pair):
            elsewhere.add("pair")  # the name of the folder says it
        kept = self.model_dump(mode="json", exclude=elsewhere, exclude_none=True)
        return {**kept, "edition": str(self.edition)}
