"""Settings of ``recbole-edt import``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recbole_edt.prepare.settings import FilterSettings
from recbole_edt.settings import Count, FolderName, Name, Names, Settings


class _Tables(Settings, use_attribute_docstrings=True):
    """What is read of tables, and where the data set goes.

    Columns are found by the first of their names, in which case, spaces and punctuation do not
    count. ``a.b`` is the value ``b`` of the objects in a column ``a``.
    """

    dataset: FolderName
    """name of the data set"""
    output_path: Name = "dataset"
    """folder that receives the data set's folder"""
    user: Names = (
        "user_id", "uid", "reviewerID", "customer_id", "member_id", "visitor_id", "buyer_id",
        "account_id", "profile_id", "user", "customer", "member",
    )  # fmt: skip
    """column of the user; several names if files differ (a,b); a.b for b in objects of a"""
    item: Names = (
        "item_id", "iid", "parent_asin", "asin", "product_id", "isbn", "sku", "article_id",
        "business_id", "movie_id", "book_id", "game_id", "track_id", "video_id", "news_id", "item",
        "product",
    )  # fmt: skip
    """column of the item; in tables of items also id, and of several the one that the rows have"""
    time: Names | None = (
        "timestamp", "time", "unixReviewTime", "datetime", "event_timestamp", "time_ms", "date",
        "created_at", "event_time", "ts", "review_time", "review_date", "order_date",
        "purchase_date",
    )  # fmt: skip
    """column of the time: Unix seconds, milliseconds or finer, or ISO dates; none: the rows are in
    order"""
    time_format: Name | None = None
    """format of other dates, such as %d/%m/%Y; files without such dates are read as by default"""
    rating: Names = ("rating", "ratings", "score", "stars", "overall")
    """column of the rating, optional"""
    min_rating: float | None = None
    """leave out rows with a lower rating"""
    title: Names = (
        "title", "name", "item_name", "item_title", "product_name", "product_title", "movie_title",
        "book_title", "item", "product",
    )  # fmt: skip
    """column of an item's title; other columns of items are kept under their own names"""
    domain: Names = (
        "domain", "category", "main_category", "product_category", "department", "vertical",
    )  # fmt: skip
    """column of the domain, of rows or of items, if no DOMAIN=FILE names it"""
    domains: Names | None = None
    """the two domains to keep of many; a list or path of some, such as A|B, is of the first"""
    keep_unsold: bool = False
    """keep items of the tables that have no rows, or none after the filters: recommend ranks them
    by their text, training and evaluation leave them out"""
    text_columns: Names | None = None
    """columns that make the text of an item (default: non-numeric ones, and the one named
    price)"""
    text_length: Count = 1000
    """maximum length of the text in one column of an item, in characters"""
    embed: bool = True
    """write embeddings of the items' text (latent semantic analysis); models need them except with
    --item_embedding=id"""
    lsa_items: Name | None = None
    """for data that have grown: an earlier .item file, whose items keep their embeddings, also in
    augment and in later imports that name the new file"""


class ImportSettings(FilterSettings, _Tables, use_attribute_docstrings=True):
    """How tables become a data set."""

    repeated: Literal["first", "exact", "all"] = "exact"
    """of rows with the same user and item keep the first, one for each time (exact), or all"""
    min_item_rows: Count = 1
    """k-core: minimum rows of an item"""
    min_user_rows: Count = 1
    """k-core: minimum rows of a user, over both domains"""

    @property
    def target(self) -> Path:
        """Folder of the data set."""
        return Path(self.output_path, self.dataset)

    def names(self, role: str) -> tuple[str, ...]:
        """Names that a column of a role may have: of the user, the item, and so on."""
        return getattr(self, role) or ()


class ImportCommand(ImportSettings, use_attribute_docstrings=True):
    """Arguments of ``recbole-edt import``."""

    columns: Names | None = None
    """names of the columns of files without a header line, such as user,item,rating,time"""
    encoding: Name = "utf-8"
    """encoding of all text files, such as cp1252 (of Windows)"""
    preview: bool = False
    """say what was recognised, show ten rows and the statistics, and write nothing"""
