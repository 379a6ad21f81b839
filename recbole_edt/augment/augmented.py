"""Result of an augmentation: histories with insertions, items old and new, profiles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from recbole_edt.augment.clusters import ItemSpace
from recbole_edt.augment.insert import Insertions
from recbole_edt.errors import DataError


@dataclass
class Augmented:
    """Everything that goes into the augmented files."""

    space: ItemSpace  # Training rows, and vectors of the raw items, then of the new ones
    new_items: list[dict[str, Any]]  # Attributes of the new items
    insertions: Insertions
    # Stage -> user -> why, one line
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    profiles: list[str] | None = None  # One per user
    user_vectors: np.ndarray | None = None  # float32 [n_users, d_L]; vectors of the profiles

    def without_unused(self) -> Augmented:
        """Leave out new items that no sequence holds after filtering."""
        n = len(self.space.histories.items)
        lines = self.insertions.items
        used = np.unique(lines[lines >= n])
        new_line = np.arange(n + len(self.new_items))
        new_line[used] = n + np.arange(len(used))
        vectors = self.space.vectors
        return replace(
            self,
            space=replace(self.space, vectors=np.concatenate([vectors[:n], vectors[used]])),
            new_items=[self.new_items[line - n] for line in used],
            insertions=Insertions(self.insertions.anchors, new_line[lines]),
        )

    def item_table(self) -> pd.DataFrame:
        """Lines of ``.item``: the raw ones and the new ones, all text.

        Raises
        ------
        DataError
            If a raw item has the name of a new one.
        """
        raw = self.space.histories.items.drop(columns="generated", errors="ignore")
        new = pd.DataFrame(self.new_items).reindex(columns=raw.columns, fill_value="")
        width = max(5, len(str(len(new))))
        new["item_id"] = [f"gen{place:0{width}d}" for place in range(1, len(new) + 1)]
        taken = set(raw["item_id"]) & set(new["item_id"])
        if taken:
            raise DataError(f"item '{min(taken)}' has a name that generated items need")
        table = pd.concat([raw, new], ignore_index=True)
        table["generated"] = ["0"] * len(raw) + ["1"] * len(new)
        return table

    def training_rows(self, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Augmented training sequences, with a share of the insertions (always the same ones).

        Returns
        -------
        items, anchors : np.ndarray
            int64 [n_rows]; item line of each row, and the raw row that it is or follows.
        """
        rows, inserted = self.space.histories.rows, self.insertions
        n = round(share * len(inserted.items))
        some = np.sort(np.random.default_rng(0).permutation(len(inserted.items))[:n])
        anchors = np.concatenate([np.arange(len(rows)), inserted.anchors[some]])
        items = np.concatenate([rows, inserted.items[some]])
        order = np.argsort(anchors, kind="stable")
        return items[order], anchors[order]
