"""One shop of two domains, and the ways in which strangers write it down."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

# a title with everything that an atomic file cannot hold as it is
WORDS = ["naïve", 'the "red"', "tab\there", "two\nlines", "größe", "夜", "<b>bold</b>", "A &amp; B"]
CLEAN = ["naïve", "the ''red''", "tab here", "two lines", "größe", "夜", "bold", "A & B"]
Row = tuple[int, str, int, int, int]


def title(domain: str, number: int, words: list[str]) -> str:
    return f"{domain} {words[number % 8]} {words[number // 8 % 8]} {number % 3}"


def iso(time: int) -> str:
    return datetime.fromtimestamp(time, timezone.utc).isoformat()


def odd_csv(rows: list[Row]) -> list[str]:
    """One CSV file with a byte order mark, semicolons and a domain column."""
    with open("odd.csv", "w", newline="", encoding="utf-8-sig") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow(["Member", "Artikel", "Bezeichnung", "Sparte", "Datum", "Kommentar"])
        for user, domain, number, time, _ in rows:
            named = title(domain, number, WORDS)
            date = datetime.fromtimestamp(time, timezone.utc).strftime("%d.%m.%Y %H:%M:%S")
            out.writerow([user, f"{domain}{number}", named, domain, date, f"mine, {time}"])
    return ["odd.csv", "--item=Artikel", "--time=Datum", "--time_format=%d.%m.%Y %H:%M:%S",
            "--domain=Sparte", "--title=Bezeichnung"]  # fmt: skip


def json_lines(rows: list[Row]) -> list[str]:
    """JSON lines, packed, a file per domain; numbers as ids, and the same ones in both."""
    for domain in ("books", "films"):
        with gzip.open(f"{domain}.jsonl.gz", "wt", encoding="utf-8") as file:
            for user, own, number, time, rating in rows:
                record = {"userId": user, "sku": number, "createdAt": iso(time), "stars": rating}
                record |= {"item_name": title(domain, number, WORDS), "review": f"so {time}"}
                if own == domain:
                    file.write(json.dumps(record) + "\n\n")
    return ["books.jsonl.gz", "films.jsonl.gz"]


def recbole_cdr(rows: list[Row]) -> list[str]:
    """RecBole-CDR's pair of folders, with the same ids in both."""
    for domain in ("books", "films"):
        folder = Path("cdr", domain)
        folder.mkdir(parents=True)
        lines = [f"{u}\t{n}\t{r}\t{t}" for u, own, n, t, r in rows if own == domain]
        header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
        (folder / f"{domain}.inter").write_text("\n".join([header, *lines]))
        names = [f"{n}\t{' '.join(title(domain, n, WORDS).split())}\t{n % 4}" for n in range(20)]
        (folder / f"{domain}.item").write_text(
            "\n".join(["item_id:token\tmovie_title:token_seq\tclass:token", *names]), "utf-8"
        )
        (folder / f"{domain}.user").write_text("user_id:token\tage:float\n1\t2\n")
    return ["cdr/books", "cdr/films"]


def recbole_folder(rows: list[Row]) -> list[str]:
    """A folder of RecBole whose items have a category."""
    folder = Path("shop")
    folder.mkdir()
    lines = [f"{u}\t{domain}{n}\t{t}" for u, domain, n, t, _ in rows]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "shop.inter").write_text("\n".join([header, *lines]))
    names = [
        f"{domain}{n}\t{' '.join(title(domain, n, WORDS).split())}\t{domain}"
        for domain in ("books", "films")
        for n in range(20)
    ]
    (folder / "shop.item").write_text(
        "\n".join(["item_id:token\tname:token_seq\tcategory:token", *names]), "utf-8"
    )
    return ["shop"]


def parquet(rows: list[Row]) -> list[str]:
    """Parquet with dates, and the items in a second file."""
    pytest.importorskip("pyarrow")
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["customer_id", "vertical", "number", "event_time", "score"])
    frame["event_time"] = pd.to_datetime(frame["event_time"], unit="s")
    frame["product_id"] = frame["number"] + 1000 * (frame["vertical"] == "films")
    frame.drop(columns="number").to_parquet("events.parquet")
    names = {d: [title(d, n, WORDS) for n in range(20)] for d in ("books", "films")}
    items = {"id": [*range(20), *range(1000, 1020)], "name": [*names["books"], *names["films"]]}
    pd.DataFrame(items | {"tags": [["a", f"t{n % 7}"] for n in range(40)]}).to_parquet("items.pq")
    return ["events.parquet", "items.pq"]


STRANGERS: list[Callable[[list[Row]], list[str]]] = [
    odd_csv, json_lines, recbole_cdr, recbole_folder, parquet,
]  # fmt: skip
