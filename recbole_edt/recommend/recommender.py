"""A trained model at work: what it recommends, why, and the vectors it scores with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.lib.format import open_memmap
from recbole.data.interaction import Interaction
from recbole.utils import get_model, init_seed

from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.sequences import Sequences, expand_ranges
from recbole_edt.errors import ConfigError, DataError, as_config_error
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.settings import nearest
from recbole_edt.trainer import checkpoint

History = Literal["all", "test", "valid"]
"""Where histories end: behind the last row, or before the test or validation target."""


class Step(NamedTuple):
    """One row of a user's history: the item's id, and whether preprocessing inserted the row."""

    item: int
    inserted: bool


class Recommendation(NamedTuple):
    """One recommended item.

    Attributes
    ----------
    item : int
        Id.
    score : float
        As the model gives it.
    carried_by : list of (int, float)
        Places in the history and by how much the score falls without each, largest first.
    """

    item: int
    score: float
    carried_by: list[tuple[int, float]]


class Recommender:
    """A model, its data and its settings.

    Parameters
    ----------
    config : EDTConfig
        Settings of the run.
    data : CrossDomainDataset
        What it was trained on.
    model : torch.nn.Module
        Trained; in evaluation mode.
    history : {"all", "test", "valid"}
        Where users' histories end.
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
        self._place = np.full(data.user_num, -1)
        self._place[self.users] = np.arange(len(self.users))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        dataset: str,
        data_path: str | Path | None = None,
        history: History = "all",
        changes: Mapping[str, Any] | None = None,
    ) -> Recommender:
        """Load a checkpoint and the data that it was trained on.

        Parameters
        ----------
        path : str or Path
            The checkpoint of a run's best epoch.
        dataset : str
            Name of the data set.
        data_path : str or Path, optional
            Folder that holds its folder.
        history : {"all", "test", "valid"}
            Where users' histories end.
        changes : mapping, optional
            Settings that change no result, such as ``use_gpu`` or ``eval_batch_size``.

        Raises
        ------
        CheckpointError
            If the checkpoint is missing, damaged, or belongs to other data.
        EDTError
            If the data break the contract.
        """
        content = checkpoint.load(path)
        config = restored_config(content, dataset, data_path, changes or {})
        init_seed(config["seed"], config["reproducibility"])
        with as_config_error(f"dataset {dataset}"):
            data = CrossDomainDataset(config)
            data.build()
        checkpoint.check_dataset(content, data, path)
        model = get_model(content["model"])(config, data).to(config["device"])
        if isinstance(model, CrossDomainModel):
            model.enter_stage(content["stage"])
        checkpoint.load_state(model, content, path)
        return cls(config, data, model, history)

    # -- scores ---------------------------------------------------------------------------------

    def place(self, token: str) -> int:
        """Place of a user among those who can be recommended to.

        Raises
        ------
        DataError
            If the data set has no such user, or they have no history.
        """
        known = self.data.field2token_id[self.data.uid_field]
        if token not in known:
            raise DataError(f"there is no user '{token}'{nearest(token, list(known)[:50_000])}")
        place = int(self._place[known[token]])
        if place < 0:
            raise DataError(f"user '{token}' has no history that ends there")
        return place

    @torch.no_grad()
    def scores(self, places: np.ndarray) -> torch.Tensor:
        """Scores of all items, float32 [n, n_items]; -inf for items that are no candidates.

        Candidates are raw items that are not in the raw rows of a user's history.

        Parameters
        ----------
        places : np.ndarray
            int64 [n]; as :meth:`place` gives them.
        """
        users, stops = self.users[places], self.stops[places]
        scores = self._score(self.data.history_fields(self.rows, users, stops))
        scores[:, self._excluded] = -torch.inf
        owner, rows = expand_ranges(self.rows.offsets[users], stops)
        raw = ~self.rows.augmented[rows]
        scores[owner[raw], self.rows.items[rows[raw]]] = -torch.inf
        return scores

    @cached_property
    def _excluded(self) -> torch.Tensor:
        """Items that are no candidates for any user, int64."""
        keep = np.zeros(self.data.item_num, dtype=bool)
        keep[np.concatenate(self.pools)] = True
        return torch.from_numpy(np.flatnonzero(~keep))

    @cached_property
    def _titles(self) -> dict[str, str]:
        return self.data.item_titles()

    def _score(self, fields: Mapping[str, np.ndarray]) -> torch.Tensor:
        return self.model.full_sort_predict(self._interaction(fields)).view(
            len(fields[self.data.uid_field]), -1
        )[:, : self.data.item_num].float().cpu()  # fmt: skip

    def _interaction(self, fields: Mapping[str, np.ndarray]) -> Interaction:
        tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
        return Interaction(tensors).to(self.device)

    def batches(self) -> list[np.ndarray]:
        """Places of all users, ``eval_batch_size`` at a time."""
        n, size = len(self.users), int(self.config["eval_batch_size"])
        return np.split(np.arange(n), range(size, n, size))

    def top(self, places: np.ndarray, domain: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best candidates of a domain.

        Parameters
        ----------
        places : np.ndarray
            int64 [n].
        domain : int
            0 or 1.
        k : int
            How many; fewer if the domain has fewer.

        Returns
        -------
        items : np.ndarray
            int64 [n, k]; best first.
        scores : np.ndarray
            float32 [n, k]; -inf where a user has fewer candidates.
        """
        pool = torch.from_numpy(self.pools[domain])
        found = self.scores(places)[:, pool].topk(min(k, len(pool)), dim=1)
        return pool[found.indices].numpy(), found.values.numpy()

    # -- reasons --------------------------------------------------------------------------------

    def history(self, place: int) -> list[Step]:
        """Return the rows that the model sees of a user, oldest first."""
        stop = self.stops[place]
        start = max(self.rows.offsets[self.users[place]], stop - self.data.max_item_list_len)
        rows = range(start, stop)
        return [Step(int(self.rows.items[r]), bool(self.rows.augmented[r])) for r in rows]

    def recommend(self, place: int, domain: int, k: int) -> list[Recommendation]:
        """Recommend items of a domain to one user, with the rows of the history that carried each.

        A row carries an item by as much as the item's score falls when the row is left out of the
        history; a single row carries the whole score.

        Parameters
        ----------
        place, domain, k : int
            Whom, from where, how many.
        """
        items, scores = self.top(np.array([place]), domain, k)
        steps = self.history(place)
        falls = scores  # [n_steps, k]
        if len(steps) > 1:
            falls = scores[0] - self._without_each(place, steps)[:, items[0]]
        out = []
        for column, (item, score) in enumerate(zip(items[0], scores[0], strict=True)):
            if np.isneginf(score):
                break
            order = np.argsort(-falls[:, column], kind="stable")
            carried = [(int(r), float(falls[r, column])) for r in order if falls[r, column] > 0]
            out.append(Recommendation(int(item), float(score), carried))
        return out

    @torch.no_grad()
    def _without_each(self, place: int, steps: Sequence[Step]) -> np.ndarray:
        """Scores of all items with one row of the history left out, [n_steps, n_items]."""
        n = len(steps)
        left = [np.delete(np.array(steps), number, axis=0) for number in range(n)]
        items, inserted = np.concatenate(left).T  # [n * (n - 1)] each
        offsets = np.arange(n + 1) * (n - 1)
        shown = Sequences(offsets, items, inserted.astype(bool), np.zeros(len(items)))
        fields = self.data.history_fields(shown, np.arange(n), offsets[1:])
        fields[self.data.uid_field] = np.full(n, self.users[place])
        return self._score(fields).numpy()

    # -- vectors --------------------------------------------------------------------------------

    @torch.no_grad()
    def export(self, folder: Path) -> list[Path]:
        """Write item and user vectors, whose dot products are the scores.

        Parameters
        ----------
        folder : Path
            Receives ``items.npy`` (float32 [n_items, d]) and, line by line, ``items.txt`` (id,
            domain); per domain ``users_<domain>.npy`` (float32 [n_users, d]), which items of that
            domain are scored with; and ``users.txt``.

        Returns
        -------
        list of Path
            The files.

        Raises
        ------
        ConfigError
            If the model does not score by dot products.
        """
        if not isinstance(self.model, CrossDomainModel):
            raise ConfigError(f"{self.config['model']} has no vectors to export")
        folder.mkdir(parents=True, exist_ok=True)
        items = np.sort(np.concatenate(self.pools))
        vectors = self.model.item_vectors()[torch.from_numpy(items).to(self.device)]
        np.save(folder / "items.npy", vectors.float().cpu().numpy())
        names = self.data.id2token(self.data.iid_field, items)
        domains = np.array(self.data.domains)[self.data.item_domain[items]]
        users = self.data.id2token(self.data.uid_field, self.users)
        np.savetxt(
            folder / "items.txt", np.column_stack([names, domains]), "%s", "\t", encoding="utf-8"
        )
        np.savetxt(folder / "users.txt", users, "%s", encoding="utf-8")
        paths = [folder / f"users_{domain}.npy" for domain in self.data.domains]
        shape = (len(self.users), vectors.shape[1])
        files = [open_memmap(path, "w+", np.float32, shape) for path in paths]
        for places in self.batches():
            fields = self.data.history_fields(self.rows, self.users[places], self.stops[places])
            by_domain = self.model.user_vectors(self._interaction(fields))
            for file, batch in zip(files, by_domain, strict=True):
                file[places] = batch.float().cpu().numpy()
        for file in files:
            file.flush()
        return [folder / "items.npy", folder / "items.txt", *paths, folder / "users.txt"]

    # -- names ----------------------------------------------------------------------------------

    def titles(self, items: Sequence[int]) -> list[str]:
        """Titles of items, or their ids where the data have none."""
        names = self.data.id2token(self.data.iid_field, np.asarray(items, dtype=np.int64))
        return [self._titles.get(str(name)) or str(name) for name in np.atleast_1d(names)]


def restored_config(
    content: Mapping[str, Any],
    dataset: str,
    data_path: str | Path | None,
    changes: Mapping[str, Any],
) -> EDTConfig:
    """Make the configuration that a checkpoint was trained with.

    Raises
    ------
    ConfigError
        If a setting of the checkpoint is invalid.
    """
    model = content["model"]
    known = EDTConfig(model, dataset).known_keys()
    settings = {k: v for k, v in content["settings"].items() if k in known}
    for key in ("model", "dataset", "MODEL_TYPE", "preset"):
        settings.pop(key, None)
    if (settings.get("train_neg_sample_args") or {}).get("distribution") == "none":
        settings["train_neg_sample_args"] = None  # as RecBole wants to be told what it noted down
    if data_path is not None:
        settings["data_path"] = str(data_path)
    return EDTConfig(model, dataset, None, {**settings, "show_progress": False, **changes})
