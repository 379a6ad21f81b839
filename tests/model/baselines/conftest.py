"""Lets tests of baselines import ``tests/model/slow_reference.py``; a small augmented data set."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def write_shop(small_shop, augmented_shop, write_embedded):
    """Write an augmented shop of 20 users; ``held_out`` replaces all held-out items."""

    def write(folder, held_out=None):
        shop = augmented_shop(small_shop)
        if held_out is not None:
            last = {user: len(items) - 1 for user, items in shop.raw_sequences().items()}
            rows = [
                (user, held_out if place >= last[user] - 1 else item, time, place, augmented)
                for user, item, time, place, augmented in shop.rows
            ]
            shop = type(shop)(rows, shop.items)
        return write_embedded(folder, shop, profiles=True)

    return write
