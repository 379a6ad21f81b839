"""Result of an augmentation: augmented atomic files, and the report beside them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.preprocessing import normalize

from recbole_edt.augment.clusters import ItemSpace
from recbole_edt.augment.insert import Insertions
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io import files
from recbole_edt.io.atomic import check_tokens, read_columns
from recbole_edt.io.datasets import write_dataset
from recbole_edt.io.statistics import dataset_statistics

REPORT = "augmentation.json"
_TYPES = {
    "inter": files.INTER_COLUMNS | {"augmented": "token"},
    "item": files.ITEM_COLUMNS,
    "user": {"user_id": "token", "profile": "token_seq"},
}
_INJECTED = (0.3, 0.6, 1.0)  # shares of the insertions in table 3
_COMPARED = 500  # items of a kind whose nearest catalogue item is looked for


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
    corpus: list[str] | None = None  # texts that the encoder is fitted to, if not the items

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
        if "unsold" in table:
            table["unsold"] = table["unsold"].replace("", "0")
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


def write(made: Augmented, raw: Path, target: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write the augmented data set, in one step.

    Returns
    -------
    dict
        What is written as ``augmentation.json``.

    Raises
    ------
    ConfigError
        If the target is there and was not made by augmentation.
    """
    items = made.item_table()
    inter = augmented_rows(made, items)
    report = about | {
        "statistics": _statistics(made, inter, items),
        "similarity": _similarities(made),
        "new_items": _closeness(made),
        "failures": made.failures,
    }
    if target.exists() and not (target / REPORT).is_file():
        raise ConfigError(f"{target} is there and was not made by augment: move it away")
    users = _user_table(raw)
    vectors = {"item": made.space.vectors.astype(np.float16)}
    if made.profiles is not None and made.user_vectors is not None:
        of_all = users.set_index("user_id").reindex(made.space.histories.users, fill_value="")
        users = of_all.rename_axis("user_id").reset_index().assign(profile=made.profiles)
        vectors["user"] = made.user_vectors.astype(np.float16)
    tables = {}
    for suffix, table in {"inter": inter, "item": items, "user": users}.items():
        if len(table.columns) > 1:
            path = raw / f"{raw.name}.{suffix}"
            types = (read_columns(path) if path.is_file() else {}) | _TYPES[suffix]
            tables[suffix] = table, {column: types[column] for column in table.columns}
    write_dataset(target, tables, report, vectors, made.corpus, REPORT, raw / "SIMULATED")
    return report


def _user_table(raw: Path) -> pd.DataFrame:
    """Lines of the raw ``.user`` without its profiles; empty if there is none."""
    path = raw / f"{raw.name}.user"
    if not path.is_file():
        return pd.DataFrame({"user_id": []}, dtype=str)
    table = files.read_table(path).drop(columns="profile", errors="ignore")
    check_tokens(table, "user_id", path.name)
    return table


def augmented_rows(made: Augmented, items: pd.DataFrame) -> pd.DataFrame:
    """Lines of ``.inter``: raw rows and inserted ones, by user and position.

    Inserted rows share the gap after their anchor evenly and take its timestamp and what further
    columns say of it.
    """
    histories, inserted = made.space.histories, made.insertions
    raw = histories.inter.assign(augmented="0")
    training = raw[~histories.held_out].reset_index(drop=True)
    rank = np.arange(len(inserted.anchors)) - np.searchsorted(inserted.anchors, inserted.anchors)
    behind = np.bincount(inserted.anchors, minlength=len(training) + 1)[inserted.anchors]
    new = training.iloc[inserted.anchors].copy()
    new["item_id"] = items["item_id"].to_numpy()[inserted.items]
    behind_anchor = new["position"] + (rank + 1) / (behind + 1)
    places = np.concatenate([raw["position"], behind_anchor])
    raw["position"] = [str(place) for place in raw["position"]]
    new["position"] = [f"{place:.6f}".rstrip("0") for place in behind_anchor]
    new["augmented"] = "1"
    both = pd.concat([raw, new], ignore_index=True)
    order = np.lexsort((places, both["user_id"].to_numpy(dtype=str)))
    both = both.iloc[order].reset_index(drop=True)
    both["timestamp"] = [f"{time:.15g}" for time in both["timestamp"]]
    return both


def _statistics(made: Augmented, inter: pd.DataFrame, items: pd.DataFrame) -> dict[str, Any]:
    held_out = made.space.histories.held_out
    is_raw = (inter["augmented"] == "0").to_numpy()
    training = np.ones(len(inter), dtype=bool)
    training[np.flatnonzero(is_raw)[held_out]] = False
    raw = inter[is_raw]
    return {
        "before": dataset_statistics(raw, items[items["generated"] == "0"]),
        "after": dataset_statistics(inter, items),
        "training_before": dataset_statistics(raw[~held_out], items),
        "training_after": dataset_statistics(inter[training], items),
    }


def _similarities(made: Augmented) -> dict[str, float]:
    """Mean cosine of augmented users' mean item vectors before and after injection (table 3).

    By percentage of the insertions; 1.0 if no user is augmented.
    """
    histories, owners = made.space.histories, made.space.histories.owners
    touched = np.unique(owners[made.insertions.anchors])
    if not len(touched):
        return {f"{share:.0%}": 1.0 for share in _INJECTED}
    units = normalize(np.asarray(made.space.vectors, dtype=np.float64))

    def means(items: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Direction of each touched user's mean item vector."""
        size = (len(histories.users), len(units))
        counts = csr_array((np.ones(len(items)), (users, items)), shape=size)
        return normalize((counts @ units)[touched])

    before = means(histories.rows, owners)
    out = {}
    for share in _INJECTED:
        items, anchors = made.training_rows(share)
        cosines = (before * means(items, owners[anchors])).sum(axis=1)
        out[f"{share:.0%}"] = round(float(cosines.mean()), 6)
    return out


def _closeness(made: Augmented) -> dict[str, dict[str, float]]:
    """How close new items are to the catalogue, by domain that has some.

    ``nearest`` is the median of their cosines with the nearest raw item of the domain,
    ``catalogue`` the cosine that nine of ten raw items have with the nearest other one. The filter
    cannot tell: its threshold may be a quantile of what was proposed.
    """
    histories, draw = made.space.histories, np.random.default_rng(0)
    units = normalize(np.asarray(made.space.vectors, dtype=np.float64))
    out = {}
    for side, name in enumerate(histories.domains):
        raw = np.flatnonzero(histories.item_domain == side)
        of_domain = [item["domain"] == name for item in made.new_items]
        new = len(histories.items) + np.flatnonzero(of_domain)
        if len(new) and len(raw) > 1:
            some, places = draw.permutation(new)[:_COMPARED], draw.permutation(len(raw))[:_COMPARED]
            cosines = units[raw[places]] @ units[raw].T
            cosines[np.arange(len(places)), places] = -1.0  # itself
            nearest = np.median((units[some] @ units[raw].T).max(axis=1))
            figures = {"nearest": nearest, "catalogue": np.quantile(cosines.max(axis=1), 0.1)}
            rounded = {key: round(float(figure), 4) for key, figure in figures.items()}
            out[name] = {"n": len(new), **rounded}
    return out
