"""Raw files in the upstream formats, and a server that can behave badly."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

CATEGORIES = {"cloth": "Clothing_Shoes_and_Jewelry", "sport": "Sports_and_Outdoors"}


def asin(domain: str, number: int) -> str:
    return f"B00{domain[0].upper()}{number:06d}"


def review_line(user: str, item: str, time: int, edition: str = "2014") -> str:
    """A review: JSON in 2014 and 2018, a line of a ratings-only CSV file in 2023."""
    if edition == "2023":
        return f"{user},{item},4.0,{(1_400_000_000 + time) * 1000 + 123}"
    text = {"reviewerName": 'J. "Jay" Doe', "reviewText": "Nice.\nWould buy again \u2014 twice"}
    return json.dumps({"reviewerID": user, "asin": item, **text, "unixReviewTime": time})


def raw_review_line(user: str, item: str, time: int) -> str:
    """A review of 2023 with its text; the variant that was bought has an ASIN of its own."""
    variant = {"asin": item[::-1], "parent_asin": item, "images": [], "verified_purchase": True}
    text = {"rating": 5.0, "title": "Just right", "text": "Warm & light<br />Fits."}
    return json.dumps({**text, **variant, "user_id": user, "timestamp": time * 1000 + 123})


def item_line(edition: str, domain: str, item: str) -> str:
    """Metadata of an item: a Python literal in 2014, JSON in 2018 and 2023."""
    root = {"cloth": "Clothing, Shoes & Jewelry", "sport": "Sports & Outdoors"}[domain]
    shared = {"asin": item, "title": f'Thing {item} 5" &amp; more', "brand": "Café Noir"}
    if edition == "2014":
        paths = [["Gifts"], [root, "Women", "Skirts"]]
        text = {"description": "It's <b>good</b>\tand cheap", "price": 12.99, "categories": paths}
        return repr({**shared, "related": {"also_bought": ["B00X000001"]}, **text})
    if edition == "2023":
        return json.dumps({
            "main_category": "AMAZON FASHION", "title": shared["title"], "average_rating": 4.4,
            "rating_number": 12, "features": ["It's <b>good</b>"], "description": ["\tand cheap"],
            "price": 12.99, "images": [{"thumb": "t.jpg", "variant": "MAIN"}], "videos": [],
            "store": "Some seller", "categories": [root, "Women", "Skirts"],
            "details": {"Brand": "Café Noir", "Date First Available": "May 1, 2019"},
            "parent_asin": item, "bought_together": None,
        })  # fmt: skip
    path = [root.replace("&", "&amp;"), "Women", "Skirts", "Imported " * 20]
    text = {"description": ["It's <b>good</b>", "\tand cheap", ""], "price": "$12.99 - $24.99"}
    return json.dumps({"category": path, **shared, "also_buy": ["B00X000001"], **text})


def raw_paths(edition: str, domain: str) -> tuple[str, str]:
    category = CATEGORIES[domain]
    return {
        "2014": (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"),
        "2018": (
            f"categoryFilesSmall/{category}_5.json.gz",
            f"metaFiles2/meta_{category}.json.gz",
        ),
        "2023": (
            f"benchmark/5core/rating_only/{category}.csv.gz",
            f"raw/meta_categories/meta_{category}.jsonl.gz",
        ),
    }[edition]


def raw_lines(edition: str) -> dict[str, list[str]]:
    """Lines of all four files: 12 users who each review the same 4 items of each domain.

    Besides them a user and an item of too few rows, an item listed in both domains, an item
    reviewed in both, and one that the metadata does not know.
    """
    out: dict[str, list[str]] = {}
    for place, domain in enumerate(CATEGORIES):
        items = [asin(domain, number) for number in range(4)]
        unlisted, both_listed, both_reviewed = asin("unlisted", place), asin("m", 1), asin("r", 1)
        users = [f"A{number:03d}USER" for number in range(12)]
        rows = [
            (user, item, 86_400 * 10 * n)  # the same days in both domains
            for user in users
            for n, item in enumerate([*items, unlisted, both_listed, both_reviewed])
            if item != both_listed or not place
        ]
        rows += [("ALONE", items[0], 0), (users[0], asin(domain, 99), 0)]
        reviews, metadata = raw_paths(edition, domain)
        header = ["user_id,parent_asin,rating,timestamp"] * (edition == "2023")
        out[reviews] = header + [review_line(*row, edition) for row in rows]
        out[metadata] = [item_line(edition, domain, item) for item in [*items, both_listed]]
    return out


class Shelf:
    """What the server holds and how it behaves; ``log`` keeps (path, Range) of every request.

    ``behave`` are functions that each answer one request in place of the ordinary answer, from the
    first on; None answers ordinarily.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.behave: list[Callable[[Handler, bytes], None] | None] = []
        self.log: list[tuple[str, str | None]] = []
        self.ranges = True
        self.etag: str | None = '"one"'
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    shelf: Shelf

    def do_GET(self) -> None:
        shelf = self.shelf
        shelf.log.append((self.path, self.headers.get("Range")))
        body = shelf.files.get(self.path.lstrip("/"))
        if body is None:
            self.send_error(404)
            return
        behaviour = shelf.behave.pop(0) if shelf.behave else None
        (behaviour or Handler.serve)(self, body)

    def serve(self, body: bytes, stop: int | None = None) -> None:
        """Answer properly; with ``stop`` the connection is cut behind that byte of the file."""
        start = 0
        wanted = self.headers.get("Range")
        fresh = self.headers.get("If-Range") in (None, self.shelf.etag)
        if wanted and self.shelf.ranges and fresh:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.head(416, **{"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
                return
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.head(206, **{"Content-Range": span, "Content-Length": str(len(body) - start)})
        else:
            self.head(200, **{"Content-Length": str(len(body))})
        self.wfile.write(body[start:stop])

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        if self.shelf.etag:
            self.send_header("ETag", self.shelf.etag)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args) -> None:
        pass


def cut_at(stop: int) -> Callable[[Handler, bytes], None]:
    return lambda handler, body: handler.serve(body, stop)


def status(code: int, **headers: str) -> Callable[[Handler, bytes], None]:
    return lambda handler, body: handler.head(code, **{"Content-Length": "0"}, **headers)
