"""A shop of two domains."""

from __future__ import annotations

import random

import pytest
from strangers import CLEAN, Row, title


@pytest.fixture(scope="session")
def shop() -> list[Row]:
    """Rows of (user, domain, number of the item in it, Unix time, rating), in no order."""
    rng = random.Random(5)
    rows = []
    for user in range(30):
        times = rng.sample(range(1_400_000_000, 1_400_900_000), rng.randint(4, 8))
        for time in times:
            rows.append(
                (user, rng.choice(["books", "films"]), rng.randrange(20), time, time % 5 + 1)
            )
    return rows


@pytest.fixture(scope="session")
def sequences(shop) -> dict[str, list[str]]:
    """Titles of every user in the order of time, as they are read back."""
    out: dict[str, list[str]] = {}
    for user, domain, number, *_ in sorted(shop, key=lambda row: row[3]):
        out.setdefault(str(user), []).append(title(domain, number, CLEAN))
    return out
