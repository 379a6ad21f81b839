"""A shop that grows: data to train on, and the same with later rows, users and items."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np


class Growing:
    """Folders ``early``, ``grown`` and ``without_new_items``; text vectors of all items."""

    def __init__(self, folder: Path, make_shop, write_dataset) -> None:
        shop = make_shop(seed=7, n_users=30, n_items=(20, 24), lengths=(4, 9))
        rng, draw = np.random.default_rng(1), random.Random(1)
        self.new_items = ["art-new", "bike-new", "bike-newer"]
        items = [*shop.items, *((name, name.split("-")[0]) for name in self.new_items)]
        self.text = {item: rng.normal(size=6).astype(np.float32) for item, _ in items}
        self.write_dataset = write_dataset
        self.shop, old = shop, [item for item, _ in shop.items]
        self.new_users = ["a-new-one", "v1"]
        later = [(f"u{user}", draw.choice(old), 0, 20) for user in range(0, 30, 3)]
        later += [(user, draw.choice(old), 0, place) for user in self.new_users for place in (1, 2)]
        later += [(f"u{user}", name, 0, 21) for user, name in enumerate(self.new_items)]
        self.early = self.write(folder / "early", shop.rows, shop.items)
        shuffled = draw.sample(items, len(items))
        whole = [*later, *shop.rows]
        self.grown = self.write(folder / "grown", whole, shuffled)
        known = (
            [row for row in whole if row[1] in old],
            [item for item in shuffled if item[0] in old],
        )
        self.without_new_items = self.write(folder / "without", *known)

    def write(self, folder: Path, rows, items, text=None) -> Path:
        """Write a data set with the vectors of its items, those of ``text`` in place of its own."""
        vectors = np.stack([(text or self.text)[item] for item, *_ in items])
        return self.write_dataset(folder, rows=rows, items=items, item_emb=vectors)
