"""The results table, the results files and what is computed from saved ranks; without RecBole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from texttable import Texttable

from recbole_edt.io.files import atomic_write, write_text


def ndcg_of(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each of ranks [n], from 1, of the one relevant item: float64 [n]."""
    return np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0)


def table(report: Mapping[str, Any], title: str, digits: int = 4) -> str:
    """Format a report ``{"overall": {...}, "domains": {name: {...}}}`` as text, a row each.

    ``title`` is the head of the first column, ``digits`` the number of decimals.
    """
    names = [name for name in report["overall"] if name != "n"]
    out = Texttable(max_width=0)
    out.set_deco(Texttable.HEADER)
    out.set_cols_align(["l", "r", *["r"] * len(names)])
    out.set_cols_dtype(["t", "i", *["t"] * len(names)])
    rows = [*report["domains"].items(), ("overall", report["overall"])]
    out.header([title, "users", *names])
    for label, values in rows:
        out.add_row([label, values["n"], *[f"{values[name]:.{digits}f}" for name in names]])
    return out.draw()


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a results file atomically."""
    write_text(Path(path), json.dumps(content, indent=2) + "\n")


def write_ranks(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a ``.npz`` file of ranks atomically.

    Its arrays are ``users`` (str [n_eval]), ``valid_domains`` and ``test_domains`` (int8 [n_eval];
    domain of each target), and per protocol ``<phase>_<mode>`` (int32 [n_eval]; rank of the target,
    from 1).
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
