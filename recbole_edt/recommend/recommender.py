"""Recommendations of a trained model: what it recommends, why, and the vectors it scores with."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from logging import getLogger
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils.enum_type import ModelType
from torch import Tensor

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.known import shown
from recbole_edt.data.sequences import Sequences, expand_ranges
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.evaluation.history import HistoryTerm
from recbole_edt.evaluation.scores import all_scores
from recbole_edt.evaluation.vectors import vectors_of
from recbole_edt.io.files import atomic_write, check_writable, write_array, write_text
from recbole_edt.model.kernels import product
from recbole_edt.restore import load_served
from recbole_edt.settings import Count, check_value, expand_home, nearest
from recbole_edt.trainer.checkpoint import PARTS

Until = Literal["all", "test", "valid"]
"""End of the histories: after the last row, or before the test or validation target."""

Ids = str | Sequence[str]
_LOWEST = float(np.finfo(np.float32).min)  # score of what the model gives no number


def check_domain(name: str | None, domains: Sequence[str]) -> None:
    """Raise ConfigError for the name of a domain that there is not; None is all of them."""
    if name not in (None, *domains):
        raise ConfigError(f"unknown domain '{name}' (there are: {', '.join(domains)})")


def _listed(names: Ids) -> list[str]:
    return [str(name) for name in ([names] if np.isscalar(names) else names)]


class Histories(NamedTuple):
    """Rows ``rows.offsets[owners[i]]:stops[i]`` are the history of the i-th user."""

    rows: Sequences
    owners: np.ndarray  # int64 [n]
    stops: np.ndarray  # int64 [n]
    users: np.ndarray  # int64 [n]; their numbers, 0 without a known user

    def take(self, at: np.ndarray | slice) -> Histories:
        """Return some of the histories."""
        return Histories(self.rows, self.owners[at], self.stops[at], self.users[at])


class Recommender:
    """A trained model that serves the users of its data, and histories without a known user.

    :meth:`load` makes it from a checkpoint. Ids are those of the atomic files, numbers the places
    in the model's tables. Candidates are the raw items of a domain that are not among the raw rows
    of a history, nor among those of its user that filters dropped.

    Attributes
    ----------
    domains : list of str
        Names of domain A and domain B.
    """

    def __init__(self, config, data: CrossDomainDataset, model, until: Until = "all") -> None:
        self.config, self.data, self.model = config, data, model.eval()
        self.device, self.domains = torch.device(config["device"]), list(data.domains)
        rows, (valid, test) = data.evaluation_rows()
        if until == "all":
            users = np.flatnonzero(np.diff(rows.offsets))
            stops = rows.offsets[users + 1]
        else:
            users, stops = data.split.users, test if until == "test" else valid
        self.reads_histories = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        # a model with one vector per training user cannot serve later users
        known = data.known.users if data.known else None
        self._by_user = known is not None
        self._n_known = data.user_num if known is None else len(known) + 1
        self.histories = Histories(rows, users, stops, users).take(users < self._n_known)
        self._place = np.full(data.user_num, -1)
        self._place[self.histories.users] = np.arange(len(self.histories.users))
        titles, names = data.item_titles(), data.field2id_token[data.iid_field]
        self._titles = np.array([titles.get(name) or name for name in names.tolist()], object)
        self.pools = data.candidate_pools()
        self._column = np.full(data.item_num, -1)  # of each item among the candidates of its domain
        for pool in self.pools:
            self._column[pool] = np.arange(len(pool))
        # rows that filters dropped are in no history, but what users have is not recommended
        self._dropped = data.dropped_items() if until == "all" else None
        self._vectors = vectors_of(model)
        self._items: list[Tensor] = []  # vectors of each domain's candidates
        if self._vectors is not None:
            with torch.no_grad():
                items = self._vectors.item_vectors().float()
            pools = [torch.from_numpy(pool).to(self.device) for pool in self.pools]
            # column-major, which `product` reads fastest
            self._items = [items[pool].T.contiguous().T for pool in pools]
        self._term = HistoryTerm.of(model, data)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        dataset: str | None = None,
        data_path: str | Path | None = None,
        until: Until = "all",
        **settings: Any,
    ) -> Recommender:
        """Load a model, and the data that it was trained on, or that have grown since.

        New rows and new users are served. New items are, where the model has their text; others
        are left out and named.

        Parameters
        ----------
        checkpoint : str or Path
            The file that a run names at its end.
        dataset, data_path : optional
            Name of the data set, and the folder that holds its folder; by default the run's.
        until : {"all", "test", "valid"}
            Where histories end: after the last row, or before the test or validation target.
        **settings
            Keys of a run that change no result, such as ``use_gpu`` or ``eval_batch_size``.

        Raises
        ------
        CheckpointError
            If the checkpoint is missing, damaged, or does not fit the data.
        EDTError
            If settings or data are invalid.
        """
        check_value(Until, "until", until)
        changes = {"show_progress": False, **settings}
        if data_path is not None:
            changes["data_path"] = str(data_path)
        config, model, data = load_served(checkpoint, dataset, changes)
        result, _, part = Path(checkpoint).stem.rpartition(".")
        if part in PARTS:
            data.notes.append(
                f"{checkpoint} is a state within a training, and not its result: {result}.pth is"
            )
        for note in data.notes:
            getLogger().warning(note)
        return cls(config, data, model, until)

    # -- by ids ---------------------------------------------------------------------------------

    def recommend(
        self,
        users: Ids | None = None,
        k: int = 10,
        domain: str | None = None,
        history: Ids | None = None,
        repeat: bool = False,
        exclude: Ids | None = None,
    ) -> pd.DataFrame:
        """Recommend the k best items of each domain, or of one.

        Parameters
        ----------
        users : str or sequence of str, optional
            Ids of users; by default all.
        k : int
            Items for each user and domain.
        domain : str, optional
            Name of a domain.
        history : str or sequence of str, optional
            In place of ``users``: ids of the items of one history, oldest first.
        repeat : bool
            Whether the items of a history are candidates, too: what is bought again.
        exclude : str or sequence of str, optional
            Ids of items that are no candidates, such as what is out of stock.

        Returns
        -------
        pandas.DataFrame
            ``user_id`` (None for a history), ``domain``, ``rank`` (from 1), ``item_id``, ``title``
            (the id where there is none) and ``score``; for each user and domain the best first.
            Users with fewer candidates have fewer rows.

        Raises
        ------
        DataError
            If an id is unknown, or a user has no history.
        ConfigError
            If there is no such domain, or the model knows users by their ids alone.
        """
        parts = self.batches(users, k, domain, history, repeat, exclude)
        return pd.concat(parts, ignore_index=True)

    def batches(
        self,
        users: Ids | None = None,
        k: int = 10,
        domain: str | None = None,
        history: Ids | None = None,
        repeat: bool = False,
        exclude: Ids | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield what :meth:`recommend` returns, ``eval_batch_size`` users at a time."""
        check_domain(domain, self.domains)
        check_value(Count, "k", k.item() if isinstance(k, np.integer) else k)
        domains = [d for d, name in enumerate(self.domains) if domain in (None, name)]
        k = min(int(k), max(len(self.pools[d]) for d in domains))
        left_out = self.data.left_out  # these are no candidates anyway
        names = () if exclude is None else _listed(exclude)
        excluded = self.numbers_of([name for name in names if name not in left_out])
        for part in self._parts(self.asked(users, history)):
            yield self._best(part, domains, k, repeat, excluded)

    def history(self, user: str) -> list[str]:
        """Ids of the items that the data hold of a user, oldest first, without inserted ones."""
        asked = self.asked(user)
        if len(asked.users) != 1:
            raise ConfigError("history takes one user")
        rows = slice(asked.rows.offsets[asked.owners[0]], asked.stops[0])
        items = asked.rows.items[rows][~asked.rows.augmented[rows]]
        return self.data.id2token(self.data.iid_field, items).tolist()

    def score(
        self, users: Ids | None = None, items: Ids = (), history: Ids | None = None
    ) -> pd.DataFrame:
        """Scores of any items: a row per user, or for a history, and a column per item."""
        asked, numbers = self.asked(users, history), self.numbers_of(items)
        if not len(numbers):
            raise ConfigError("score takes the ids of items")
        parts = [
            self._all_scores(part)[:, numbers] for part in self._parts(asked) if len(part.users)
        ]
        scores = torch.cat(parts) if parts else torch.zeros(0, len(numbers))
        names = (
            [None] if history is not None else self.data.id2token(self.data.uid_field, asked.users)
        )
        ids = self.data.id2token(self.data.iid_field, numbers)
        return pd.DataFrame(scores.cpu().numpy(), names, ids)

    def explain(
        self, user: str | None = None, item: str | None = None, history: Ids | None = None
    ) -> pd.DataFrame:
        """By how much the score of an item falls without each row of a user's history.

        Parameters
        ----------
        user, item : str
            Ids; no user for a ``history``, as in :meth:`recommend`.

        Returns
        -------
        pandas.DataFrame
            The rows that the model sees, oldest first: ``item_id``, ``title``, ``domain``,
            ``inserted`` and ``carries``, the fall of the score. A single row carries all of it.

        Raises
        ------
        ConfigError
            If the model reads no histories, such as BPR.
        """
        if not self.reads_histories:
            raise ConfigError(f"{self.config['model']} reads no histories: no row carries a score")
        asked = self.asked(user, history)
        if len(asked.users) != 1 or item is None:
            raise ConfigError("explain takes one user, or a history, and an item")
        return self.rows(asked).assign(carries=self.falls(asked)[:, self.numbers_of(item)[0]])

    # -- by numbers -----------------------------------------------------------------------------

    def asked(self, users: Ids | None = None, history: Ids | None = None) -> Histories:
        """Histories of users, of all users, or one of items; errors as :meth:`recommend`."""
        if history is not None:
            if users is not None:
                raise ConfigError("ask for either users or a history")
            return self._without_user(self.numbers_of(history))
        if users is None:
            return self.histories
        numbers = self._numbers(self.data.uid_field, "user", users)
        places = self._place[numbers]
        if (places < 0).any():
            number = numbers[places < 0][0]
            name = self.data.id2token(self.data.uid_field, number)
            if number >= self._n_known:
                raise DataError(f"user '{name}' is new, and {self._knows('users')}")
            raise DataError(f"user '{name}' has no history that ends there")
        return self.histories.take(places)

    def _without_user(self, items: np.ndarray) -> Histories:
        if self._by_user or not self.reads_histories:
            model = self.config["model"]
            raise ConfigError(f"{model} knows users by their ids: it cannot be asked for a history")
        if not len(items):
            raise DataError("the history is empty: name at least one item")
        ends = np.array([0, len(items)])
        rows = Sequences(ends, items, np.zeros(len(items), dtype=bool), np.zeros(len(items)))
        return Histories(rows, ends[:1], ends[1:], ends[:1])

    def numbers_of(self, items: Ids) -> np.ndarray:
        """Numbers of items, int64 [n]; DataError for an unknown one."""
        return self._numbers(self.data.iid_field, "item", items)

    def _numbers(self, field: str, what: str, names: Ids) -> np.ndarray:
        known = self.data.field2id_token[field]
        numbers = self.data.field2token_id[field]
        names = _listed(names)
        if unknown := [name for name in names if not numbers.get(name)]:  # 0 is padding
            name, *others = unknown
            if name in self.data.left_out:
                raise DataError(f"{what} '{name}' is new, and {self._knows('items')}")
            if self.data.was_dropped(field, name):
                raise DataError(f"{self.data.filters}: no row of {what} '{name}' is left")
            hint = nearest(name, known[1:50_000].tolist())
            more = f" ({len(others):,} further unknown: {shown(others)})" if others else ""
            raise DataError(f"there is no {what} '{name}'{hint}{more}")
        return np.array([numbers[name] for name in names], dtype=np.int64)

    def _knows(self, what: str) -> str:
        model = self.config["model"]
        return f"{model} knows the {what} of its training alone (run --start_from trains on)"

    def _parts(self, asked: Histories) -> Iterator[Histories]:
        size = int(self.config["eval_batch_size"])
        for start in range(0, max(len(asked.users), 1), size):
            yield asked.take(slice(start, start + size))

    def _best(
        self, asked: Histories, domains: list[int], k: int, repeat: bool, excluded: np.ndarray
    ) -> pd.DataFrame:
        data, shape = self.data, (len(asked.users), len(domains), k)
        items, scores = np.zeros(shape, dtype=np.int64), np.full(shape, -np.inf, np.float32)
        found = self.scores(asked, domains, repeat, excluded) if len(asked.users) else []
        for place, of_domain in enumerate(found):
            if of_domain.max().isnan():  # they rank last, as in evaluation
                of_domain.masked_fill_(of_domain.isnan(), _LOWEST)
            best = of_domain.topk(min(k, of_domain.shape[1]), dim=1)
            columns = best.indices.cpu().numpy()
            items[:, place, : columns.shape[1]] = self.pools[domains[place]][columns]
            scores[:, place, : columns.shape[1]] = best.values.cpu().numpy()
        user, at, rank = np.nonzero(scores > -np.inf)
        items, scores = items[user, at, rank], scores[user, at, rank]
        if (scores == _LOWEST).any():
            scores[scores == _LOWEST] = np.nan
            name = self.config["model"]
            getLogger().warning(f"some scores of {name} are not numbers (NaN): they rank last")
        users = data.id2token(data.uid_field, asked.users)[user]
        return pd.DataFrame(
            {
                "user_id": users if asked.users.any() else None,
                "domain": np.array(self.domains)[domains][at],
                "rank": rank + 1,
                "item_id": data.id2token(data.iid_field, items),
                "title": self._titles[items],
                "score": scores,
            }
        )

    @torch.no_grad()
    def scores(
        self,
        asked: Histories,
        domains: Sequence[int],
        repeat: bool = False,
        excluded: np.ndarray | None = None,
    ) -> list[Tensor]:
        """Scores of each domain's candidates (``pools``), [n, n_candidates].

        Items ``excluded`` (int64 [m]) have -inf, and those of a history unless they may ``repeat``.
        """
        if self._vectors is not None:
            rows = self._interaction(asked)
            vectors = self._vectors.user_vectors(rows)
            out = [product(vectors[d].float(), self._items[d]) for d in domains]
            if self._term:
                for domain, scores in zip(domains, out, strict=True):
                    scores += self._term.among(rows[self.model.ITEM_SEQ], domain)
        else:
            every = self._all_scores(asked)
            out = [every[:, self.pools[d]] for d in domains]
        owners, items = np.zeros((2, 0), dtype=int) if repeat else self._had(asked)
        for domain, scores in zip(domains, out, strict=True):
            if excluded is not None:
                scores[:, self._columns(domain, excluded)[1]] = -torch.inf
            mine, columns = self._columns(domain, items)
            scores[owners[mine], columns] = -torch.inf
        return out

    def _columns(self, domain: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which items are candidates of a domain, and their columns in its scores."""
        mine = (self.data.item_domain[items] == domain) & (self._column[items] >= 0)
        return mine, self._column[items[mine]]

    def _had(self, asked: Histories) -> tuple[np.ndarray, np.ndarray]:
        """Raw items of histories, and those of their users that filters dropped: owners, items."""
        owners, rows = expand_ranges(asked.rows.offsets[asked.owners], asked.stops)
        raw = ~asked.rows.augmented[rows]
        owners, items = owners[raw], asked.rows.items[rows[raw]]
        if self._dropped is None:
            return owners, items
        offsets, dropped = self._dropped
        of, places = expand_ranges(offsets[asked.users], offsets[asked.users + 1])
        return np.append(owners, of), np.append(items, dropped[places])

    @torch.no_grad()
    def _all_scores(self, asked: Histories) -> Tensor:
        """Scores of all items, float32 [n, n_items]."""
        features = self.data.get_item_feature().to(self.device)
        return all_scores(self.model, self._interaction(asked), features, self._term)

    def _interaction(self, asked: Histories) -> Interaction:
        known = asked.rows is self.histories.rows
        # a copy: `history_fields` caches each domain's rows on the dataset that it is called on
        data = self.data if known else copy.copy(self.data)
        fields = data.history_fields(asked.rows, asked.owners, asked.stops)
        fields[data.uid_field] = asked.users
        tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
        return data.transformed(Interaction(tensors)).to(self.device)

    def rows(self, asked: Histories) -> pd.DataFrame:
        """Rows of one history that the model sees, oldest first; see :meth:`explain`."""
        return self._describe(*self._seen(asked))

    def _describe(self, items: np.ndarray, inserted: np.ndarray) -> pd.DataFrame:
        names = np.array(self.domains)[self.data.item_domain[items]]
        ids, titles = self.data.id2token(self.data.iid_field, items), self._titles[items]
        return pd.DataFrame(
            {"item_id": ids, "title": titles, "domain": names, "inserted": inserted}
        )

    def rows_of_training(self, asked: Histories) -> pd.DataFrame:
        """Rows as :meth:`rows`, and between them the inserted ones that training alone reads.

        ``number`` is the place among what the model sees, from 1, or 0.
        """
        seen, all_rows = self.rows(asked), self.data.sequences
        if asked.rows is not self.histories.rows or asked.rows is all_rows:
            return seen.assign(number=np.arange(1, len(seen) + 1))
        (owner,), (stop,) = asked.owners, asked.stops
        rows = slice(*all_rows.offsets[owner : owner + 2])
        items, inserted = all_rows.items[rows], all_rows.augmented[rows]
        raw = np.cumsum(~inserted)  # raw rows up to each
        last = stop - asked.rows.offsets[owner]
        number = raw - (last - len(seen))
        inside = (number > 0) & ((raw < last) | ((raw == last) & ~inserted))
        frame = self._describe(items[inside], inserted[inside])
        return frame.assign(number=np.where(inserted, 0, number)[inside])

    def _seen(self, asked: Histories) -> tuple[np.ndarray, np.ndarray]:
        (owner,), (stop,) = asked.owners, asked.stops
        start = max(asked.rows.offsets[owner], stop - self.data.max_item_list_len)
        return asked.rows.items[start:stop], asked.rows.augmented[start:stop]

    def falls(self, asked: Histories) -> np.ndarray:
        """By how much each item's score falls without each row of one history, [n_rows, n_items].

        A single row carries the whole score.
        """
        items, inserted = self._seen(asked)
        n = len(items)
        whole = self._all_scores(asked).cpu().numpy()
        if n == 1:
            return whole
        kept = np.nonzero(~np.eye(n, dtype=bool))[1]  # [n * (n - 1)]
        offsets = np.arange(n + 1) * (n - 1)
        rows = Sequences(offsets, items[kept], inserted[kept], np.zeros(len(kept)))
        without = Histories(rows, np.arange(n), offsets[1:], asked.users.repeat(n))
        return whole - self._all_scores(without).cpu().numpy()

    def carriers(
        self, asked: Histories, items: Ids, most: int = 3
    ) -> list[list[tuple[int, float]]]:
        """Rows of one history that carry most of each item's score: places in :meth:`rows`, falls.

        The greatest comes first. Rows without which the score does not fall are left out: all, if
        the model reads no histories.
        """
        if not self.reads_histories:
            return [[] for _ in _listed(items)]
        falls = self.falls(asked)[:, self.numbers_of(items)].T
        order = np.argsort(-falls, axis=1, kind="stable")[:, :most]
        return [
            [(int(row), float(of[row])) for row in rows if of[row] > 0]
            for rows, of in zip(order, falls, strict=True)
        ]

    # -- vectors --------------------------------------------------------------------------------

    @torch.no_grad()
    def export(self, folder: str | Path) -> list[Path]:
        """Write what a nearest-neighbour index needs; return the files.

        For each domain ``items_<domain>.npy`` (float32 [n_candidates, d]), ``items_<domain>.txt``
        (their ids) and ``users_<domain>.npy`` (float32 [n_users, d]); ``users.txt`` (ids). The
        products of the vectors are the scores without the history term.

        Raises
        ------
        ConfigError
            If the model does not score by products of vectors.
        """
        if self._vectors is None:
            raise ConfigError(f"{self.config['model']} has no vectors to export")
        folder = Path(expand_home(str(folder)))
        check_writable("export", folder / "users.txt")
        data, asked = self.data, self.histories
        names = [quote(name, safe=" ,&()") for name in self.domains]
        pools = zip(names, self.pools, strict=True)
        texts = {f"items_{name}": data.id2token(data.iid_field, pool) for name, pool in pools}
        texts["users"] = data.id2token(data.uid_field, asked.users)
        for name, tokens in texts.items():
            write_text(folder / f"{name}.txt", "".join(f"{token}\n" for token in tokens))
        batches = [
            [vectors.float().cpu().numpy() for vectors in self._vectors.user_vectors(rows)]
            for rows in map(self._interaction, self._parts(asked))
        ]
        arrays = [np.ascontiguousarray(vectors.cpu().numpy()) for vectors in self._items]
        arrays += [np.concatenate(of_domain) for of_domain in zip(*batches, strict=True)]
        paths = [folder / f"{kind}_{name}.npy" for kind in ("items", "users") for name in names]
        with ExitStack() as stack:  # all files or none
            for path, array in zip(paths, arrays, strict=True):
                write_array(stack.enter_context(atomic_write(path)), array)
        return [*(folder / f"{name}.txt" for name in texts), *paths]
