"""What a trained model knows of its data, and data that have grown since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_edt.errors import CheckpointError

_PROJECTIONS = 2  # numbers that are kept of each embedding
_SAME = 0.05  # of their usual size: by more than this, an embedding is another one


def shown(names: Iterable[Any], n: int = 3) -> str:
    """Name the first few: ``'a', 'b', 'c'``."""
    return ", ".join(f"'{name}'" for name in list(names)[:n])


def sketch(table) -> np.ndarray:
    """Random projections of embeddings, always the same ones: float32 [n_ids, _PROJECTIONS]."""
    size = (table.shape[1], _PROJECTIONS)
    directions = np.random.default_rng(0).normal(size=size).astype(np.float32)
    return np.concatenate([rows @ directions for _, rows in table.blocks()])


def training_rows(dataset) -> torch.Tensor:
    """Hash of each user's name, and the number of their raw training rows: int64 [2, n_users]."""
    rows, names = dataset.train_sequences, dataset.field2id_token[dataset.uid_field]
    counts = np.bincount(rows.users[~rows.augmented], minlength=rows.n_users)
    hashes = pd.util.hash_array(np.asarray(names, dtype=object)).view(np.int64)
    return torch.from_numpy(np.stack([hashes, counts])[:, 1:])


class Known:
    """Items and users of a model's training data, in the order of its parameters.

    Parameters
    ----------
    content : mapping
        What :meth:`of` returned: lines of text and a sketch of the embeddings.
    path : str
        Checkpoint that holds it, for messages.
    keep_new : bool
        Whether items stay that are new to a model without text: it will be trained on them.
    """

    def __init__(self, content: Mapping[str, Any], path: str, keep_new: bool = False) -> None:
        self.path, self.domains, self.augmented = path, content["domains"], content["augmented"]
        self.text = None if content["text"] is None else content["text"].cpu().numpy()
        rows = np.array([line.split("\t") for line in content["items"].split("\n")])
        self.items, self.generated = rows[:, 0], rows[:, 2] == "1"
        self.item_domain = rows[:, 1].astype(np.int64)
        self.users = None if content["users"] is None else np.array(content["users"].split("\n"))
        self.serves = not keep_new
        self.keep_new = keep_new or self.text is not None

    @staticmethod
    def of(dataset, users: bool) -> dict[str, Any]:
        """Describe a data set; with ``users`` those too, for a model that has a vector of each."""
        tokens = dataset.field2id_token
        flags = dataset.item_generated.astype(int)
        items = zip(tokens[dataset.iid_field], dataset.item_domain, flags, strict=True)
        has_text = "item" in dataset.tables_read
        return {
            "domains": list(dataset.domains),
            "items": "\n".join("\t".join(map(str, item)) for item in list(items)[1:]),
            "users": "\n".join(tokens[dataset.uid_field][1:]) if users else None,
            "text": torch.from_numpy(sketch(dataset.item_table())[1:]) if has_text else None,
            "augmented": bool(dataset.train_sequences.augmented.any()),
            "training_rows": training_rows(dataset),
        }

    def arrange(self, dataset) -> None:
        """Put known items, and known users if the model has vectors of them, before new ones.

        Ids are given in this order. Items that are new to a model without text are left out, and
        named.

        Raises
        ------
        CheckpointError
            If the model does not fit the data: other domains, items that are missing, data that
            are not augmented.
        """
        name, iid = dataset.dataset_name, dataset.iid_field
        if dataset.domains != self.domains:
            raise CheckpointError(
                f"checkpoint {self.path} was trained on the domains {' and '.join(self.domains)}; "
                f"{name} has {' and '.join(dataset.domains)}: name its data (--dataset, "
                "--data_path), or train again"
            )
        items = dataset.item_feat.astype({iid: object}).set_index(iid)
        domains = np.array(self.domains)[self.item_domain]
        lacking = items["domain"].astype(object).reindex(self.items).to_numpy() != domains
        if (lacking & ~self.generated).any():
            lost = self.items[lacking & ~self.generated]
            filtered = lost[np.isin(lost, dataset.item_ids()) & ~np.isin(lost, items.index)]
            if len(filtered):
                raise CheckpointError(
                    f"checkpoint {self.path} was trained on {len(self.items):,} items, of which "
                    f"{len(filtered):,} are dropped from {name} by {dataset.filters}, such as "
                    f"{shown(filtered)}: give them values that are kept, or train again"
                )
            other = f"{domains[lacking & ~self.generated][0]}:{lost[0]}"
            why = "import puts domains before all ids once one is in both"
            renamed = f" ('{other}' is there: {why})" if other in items.index else ""
            raise CheckpointError(
                f"checkpoint {self.path} was trained on {len(self.items):,} items, of which {name} "
                f"lacks {len(lost):,}, such as {shown(lost)}{renamed}: keep their lines and "
                f"domains in {dataset._path('item')} (import the earlier .item, too, with "
                "--keep_unsold), name another folder (--data_path), or train again"
            )
        shows_inserted = self.augmented and dataset.config["augmented_histories"]
        vectors = dataset._path("item_emb.npy")
        if self.text is not None and not vectors.is_file():
            raise CheckpointError(
                f"checkpoint {self.path} was trained on vectors of the items' text, and "
                f"{vectors.name} is missing: name the folder that holds it (--data_path)"
            )
        if (lacking.any() and "generated" not in items) or (
            shows_inserted and "augmented" not in dataset.inter_feat
        ):
            raise CheckpointError(
                f"checkpoint {self.path} was trained on augmented data, and {name} is not "
                "augmented: name the folder that holds the augmented data (--data_path)"
            )
        new = items.index[~items.index.isin(self.items)]
        if len(new) and not self.keep_new:
            dataset.notes.append(
                f"new items of which the model has no text are left out: {len(new):,}, such as "
                f"{shown(new)} (run --start_from trains on with them)"
            )
            rows = dataset.inter_feat
            dataset.inter_feat = rows[~rows[iid].isin(new)].reset_index(drop=True)
            dataset.left_out, new = frozenset(new), new[:0]
        items = items.reindex([*self.items, *new])
        if lacking.any():  # generated items that are gone keep their numbers
            replaced = {"domain": pd.Series(domains, self.items), "generated": "1"}
            items = items.astype({column: object for column in replaced}).fillna(replaced)
        dataset.item_feat = items.rename_axis(iid).reset_index()
        if self.users is not None:
            self._arrange_users(dataset, self.users)

    def _arrange_users(self, dataset, users: np.ndarray) -> None:
        field = dataset.uid_field
        frames = {name: getattr(dataset, name) for name in ("inter_feat", "user_feat")}
        frames = {name: frame for name, frame in frames.items() if frame is not None}
        there = pd.concat([frame[field].astype(object) for frame in frames.values()])
        lost = np.setdiff1d(users, there)
        if len(lost):
            raise CheckpointError(
                f"checkpoint {self.path} has vectors of {len(users):,} users, of whom "
                f"{dataset.dataset_name} lacks {len(lost):,}, such as {shown(lost)}: keep their "
                "rows, or train again"
            )
        for name, frame in frames.items():
            place = pd.Index(users).get_indexer(frame[field].astype(object))
            order = np.argsort(np.where(place < 0, len(users), place), kind="stable")
            setattr(dataset, name, frame.iloc[order].reset_index(drop=True))

    def changed_text(self, dataset) -> np.ndarray:
        """Known items whose embeddings are others now, bool [n]: another text or encoder."""
        if self.text is None:
            return np.zeros(len(self.items), dtype=bool)
        now = sketch(dataset.item_table())[1 : len(self.items) + 1]
        usual = np.sqrt(np.square(self.text).sum(1).mean())
        return np.linalg.norm(now - self.text, axis=1) > _SAME * usual
