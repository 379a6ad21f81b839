"""Histories of training rows alone, made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recbole_edt.augment.histories import Histories


def history(sequences: list[list[int]], domain: np.ndarray) -> Histories:
    """Users u0, u1, ... with these items, which are named 0, 1, 2, ..."""
    items = pd.DataFrame(
        {
            "item_id": [str(n) for n in range(len(domain))],
            "domain": np.array(["art", "bike"])[domain],
            "title": [f"thing {n}" for n in range(len(domain))],
        }
    )
    counts = [len(sequence) for sequence in sequences]
    rows = np.concatenate([np.array(sequence, dtype=np.int64) for sequence in sequences])
    return Histories(
        items, ["art", "bike"], domain, np.array([f"u{n}" for n in range(len(sequences))]),
        np.concatenate([[0], np.cumsum(counts)]), rows, pd.DataFrame(),
        np.zeros(len(rows), dtype=bool),
    )  # fmt: skip
