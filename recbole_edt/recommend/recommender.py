"""Recommendations of a trained model: what it recommends, why, and the vectors it scores with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from recbole.data.interaction import Interaction

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.sequences import Sequences, expand_ranges
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.evaluation.scores import pair_scores, scores_all
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.restore import load_run
from recbole_edt.settings import nearest

History = Literal["all", "test", "valid"]
"""End of the histories: after the last row, or before the test or validation target."""


class Recommendation(NamedTuple):
    """A recommended item: its id, its score, and the rows of the history that carried it.

    ``carried_by`` lists places in the history and by how much the score falls without each, largest
    first.
    """

    item: int
    score: float
    carried_by: list[tuple[int, float]]


class Recommender:
    """A trained model and its data.

    Users are named by places: 0, 1, ... among those who have a history that ends at ``history``.
    """

    def __init__(self, config, data: CrossDomainDataset, model, history: History = "all") -> None:
        self.config, self.data, self.model = config, data, model.eval()
        self.device = torch.device(config["device"])
        self.rows, (valid, test) = data.evaluation_rows()
        if history == "all":
            self.users = np.flatnonzero(np.diff(self.rows.offsets))
            self.stops = self.rows.offsets[self.users + 1]
        else:
            self.users = data.split.users
            self.stops = test if history == "test" else valid
        self.pools = data.candidate_pools()
        excluded = np.setdiff1d(np.arange(data.item_num), np.concatenate(self.pools))
        self._excluded = torch.from_numpy(excluded)
        self._titles = data.item_titles()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        dataset: str,
        data_path: str | Path | None = None,
        history: History = "all",
        changes: Mapping[str, Any] | None = None,
    ) -> Recommender:
        """Load the checkpoint of a run's best epoch and the data that it was trained on.

        Parameters
        ----------
        data_path : str or Path, optional
            Folder that holds the data set's folder.
        changes : mapping, optional
            Settings that change no result, such as ``use_gpu`` or ``eval_batch_size``.

        Raises
        ------
        CheckpointError
            If the checkpoint is missing, damaged, or belongs to other data.
        EDTError
            If its settings or the data are invalid.
        """
        place = {} if data_path is None else {"data_path": str(data_path)}
        changes = {"show_progress": False, **place, **(changes or {})}
        config, model, data, *_ = load_run(path, dataset, changes)
        return cls(config, data, model, history)

    def place(self, token: str) -> int:
        """Place of a user.

        Raises
        ------
        DataError
            If the data set has no such user, or they have no history.
        """
        known = self.data.field2token_id[self.data.uid_field]
        if token not in known:
            raise DataError(f"there is no user '{token}'{nearest(token, list(known)[:50_000])}")
        found = np.flatnonzero(self.users == known[token])
        if not len(found):
            raise DataError(f"user '{token}' has no history that ends there")
        return int(found[0])

    @torch.no_grad()
    def scores(self, places: np.ndarray) -> torch.Tensor:
        """Scores of all items, float32 [n, n_items]; -inf for items that are no candidates.

        Candidates are raw items that are not in the raw rows of a user's history.
        """
        users, stops = self.users[places], self.stops[places]
        scores = self._score(self.data.history_fields(self.rows, users, stops))
        scores[:, self._excluded] = -torch.inf
        owner, rows = expand_ranges(self.rows.offsets[users], stops)
        raw = ~self.rows.augmented[rows]
        scores[owner[raw], self.rows.items[rows[raw]]] = -torch.inf
        return scores

    def _score(self, fields: Mapping[str, np.ndarray]) -> torch.Tensor:
        rows, n = self._interaction(fields), len(fields[self.data.uid_field])
        if scores_all(type(self.model)):
            scores = self.model.full_sort_predict(rows)
        else:
            items = torch.arange(self.data.item_num, device=self.device).expand(n, -1)
            features = self.data.get_item_feature().to(self.device)
            scores = pair_scores(self.model, rows, items, features)
        return scores.view(n, -1)[:, : self.data.item_num].float().cpu()

    def _interaction(self, fields: Mapping[str, np.ndarray]) -> Interaction:
        tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
        return Interaction(tensors).to(self.device)

    def batches(self) -> list[np.ndarray]:
        """Places of all users, ``eval_batch_size`` at a time."""
        n, size = len(self.users), int(self.config["eval_batch_size"])
        return np.split(np.arange(n), range(size, n, size))

    def top(self, places: np.ndarray, domain: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best candidates of a domain.

        Returns
        -------
        items : np.ndarray
            int64 [n, k], best first; fewer columns if the domain has fewer items.
        scores : np.ndarray
            float32 [n, k]; -inf where a user has fewer candidates.
        """
        pool = torch.from_numpy(self.pools[domain])
        found = self.scores(places)[:, pool].topk(min(k, len(pool)), dim=1)
        return pool[found.indices].numpy(), found.values.numpy()

    def history(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Items and "inserted" flags of the rows that the model sees of a user, oldest first."""
        stop = self.stops[place]
        start = max(self.rows.offsets[self.users[place]], stop - self.data.max_item_list_len)
        return self.rows.items[start:stop], self.rows.augmented[start:stop]

    def recommend(self, place: int, domain: int, k: int) -> list[Recommendation]:
        """Recommend items of a domain to one user, with the rows of the history that carried each.

        A row carries an item by as much as the item's score falls when the row is left out of the
        history; a single row carries the whole score.
        """
        items, scores = self.top(np.array([place]), domain, k)
        falls = scores  # [n_rows, k]
        if len(self.history(place)[0]) > 1:
            falls = scores[0] - self._scores_without_each(place)[:, items[0]]
        out = []
        for item, score, fall in zip(items[0], scores[0], falls.T, strict=True):
            if np.isneginf(score):
                break
            order = np.argsort(-fall, kind="stable")
            carried = [(int(row), float(fall[row])) for row in order if fall[row] > 0]
            out.append(Recommendation(int(item), float(score), carried))
        return out

    @torch.no_grad()
    def _scores_without_each(self, place: int) -> np.ndarray:
        """Scores of all items with one row of the history left out, [n_rows, n_items]."""
        items, inserted = self.history(place)
        n = len(items)
        kept = np.nonzero(~np.eye(n, dtype=bool))[1]  # [n * (n - 1)]
        offsets = np.arange(n + 1) * (n - 1)
        shown = Sequences(offsets, items[kept], inserted[kept], np.zeros(len(kept)))
        fields = self.data.history_fields(shown, np.arange(n), offsets[1:])
        fields[self.data.uid_field] = np.full(n, self.users[place])
        return self._score(fields).numpy()

    @torch.no_grad()
    def export(self, folder: Path) -> list[Path]:
        """Write item and user vectors, whose dot products are the scores; return the files.

        ``items.npy`` (float32 [n_items, d]) with ``items.txt`` (id, domain); per domain
        ``users_<domain>.npy`` (float32 [n_users, d]), for items of that domain, with ``users.txt``.

        Raises
        ------
        ConfigError
            If the model does not score by dot products.
        """
        if not isinstance(self.model, CrossDomainModel):
            raise ConfigError(f"{self.config['model']} has no vectors to export")
        folder.mkdir(parents=True, exist_ok=True)
        data, items = self.data, np.sort(np.concatenate(self.pools))
        vectors = self.model.item_vectors()[torch.from_numpy(items).to(self.device)]
        np.save(folder / "items.npy", vectors.float().cpu().numpy())
        domains = np.array(data.domains)[data.item_domain[items]]
        texts = {
            "items.txt": np.column_stack([data.id2token(data.iid_field, items), domains]),
            "users.txt": data.id2token(data.uid_field, self.users),
        }
        for name, columns in texts.items():
            np.savetxt(folder / name, columns, "%s", "\t", encoding="utf-8")
        paths = [folder / f"users_{domain}.npy" for domain in data.domains]
        shape = (len(self.users), vectors.shape[1])
        files = [open_memmap(path, "w+", np.float32, shape) for path in paths]
        for places in self.batches():
            fields = data.history_fields(self.rows, self.users[places], self.stops[places])
            by_domain = self.model.user_vectors(self._interaction(fields))
            for file, batch in zip(files, by_domain, strict=True):
                file[places] = batch.float().cpu().numpy()
        for file in files:
            file.flush()
        return [folder / "items.npy", *(folder / name for name in texts), *paths]

    def titles(self, items: np.ndarray) -> list[str]:
        """Titles of items, or their ids where the data have none."""
        names = np.atleast_1d(self.data.id2token(self.data.iid_field, items))
        return [self._titles.get(str(name)) or str(name) for name in names]
