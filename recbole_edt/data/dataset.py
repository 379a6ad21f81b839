"""One dataset for every model: atomic files in, leak-free training rows and targets out."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.sampler import SeqSampler
from recbole.utils.enum_type import ModelType

from recbole_edt.data import sequences
from recbole_edt.data.candidates import sample_candidates, sample_size
from recbole_edt.data.filters import FilteredRows
from recbole_edt.data.gathered import GatheredRows
from recbole_edt.data.sequences import Sequences, Windows, gather_padded
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io import atomic
from recbole_edt.io.files import write_pickle
from recbole_edt.registry import is_plugin_model, is_users_own

# Fields of an evaluation batch.
TARGET_DOMAIN = "target_domain"  # domain (0 or 1) of each target, [B]
AUGMENTED_LIST = "augmented_list"  # items that preprocessing inserted, bool [B, L]; also _<domain>


def domain_fields(domain: int) -> tuple[str, str]:
    """Fields of an evaluation batch: a domain's sub-sequence (eq. 2) [B, L], its length [B]."""
    return f"item_id_list_{domain}", f"item_length_{domain}"


def _take(fields, rows: Sequences, windows: Windows, at: np.ndarray) -> dict[str, np.ndarray]:
    return fields(rows, windows.take(at))  # at the top of the module, for pickle


class CrossDomainDataset(FilteredRows):
    """Sequences of users over two domains, split leave-one-out on raw rows.

    Reads ``<D>.inter``, ``<D>.item`` and, where present, ``<D>.user``, ``<D>.item_emb.npy`` and
    ``<D>.user_emb.npy``, and keeps RecBole's interface, so that its models train on it unchanged.

    Attributes
    ----------
    domains : list of str
        Names of domain A and domain B.
    item_domain : np.ndarray
        int64 [n_items]; 0 or 1, and -1 for the padding item.
    item_generated : np.ndarray
        bool [n_items]; items that preprocessing generated.
    sequences, train_sequences : Sequences
        All rows by (user, position), and the training rows.
    split : LeaveOneOut
        Training, validation and test rows.
    notes : list of str
        What was done to the rows that the user should know, a sentence each.
    known : Known or None
        What a model that was trained before knows; its items come first.
    left_out : frozenset of str
        Items that are new to such a model, and not in the data.
    tables_read : set of str
        ``item`` or ``user``, whose embeddings were asked for.

    Raises
    ------
    DataError, ProtocolError
        If the files break the data contract, or augmented rows come after held-out rows.
    CheckpointError
        If the data do not fit ``known``.
    """

    _cut: tuple[Any, list] = (None, [])  # sequences, and their rows of each domain
    left_out: frozenset[str] = frozenset()
    phase = "test"  # whose targets a view that is evaluated has
    _rows: Any  # inter_feat, or None before it is made

    @property
    def serves(self) -> bool:
        """Whether a trained model is asked about these data, and none is trained on them."""
        return self.known is not None and self.known.serves

    def _data_processing(self):
        super()._data_processing()
        self.item_domain = np.full(self.item_num, -1, dtype=np.int64)
        for domain, name in enumerate(self.domains):
            self.item_domain[self._holds(self.item_feat, "domain", name)] = domain
        self.item_generated = self._holds(self.item_feat, "generated", "1")
        self.item_feat = self.item_feat.drop(columns="generated", errors="ignore")  # no feature
        inter = self.inter_feat
        self.sequences = sequences.build_sequences(
            inter[self.uid_field].to_numpy(),
            inter[self.iid_field].to_numpy(),
            inter["position"].to_numpy(dtype=np.float64),
            self._holds(inter, "augmented", "1"),
            inter[self.time_field].to_numpy(dtype=np.float64),
            self.user_num,
        )
        self.split = sequences.leave_one_out(self.sequences)
        if not len(self.split.users) and not self.serves:
            raise DataError("no user has three raw rows: there is nothing to evaluate on")
        self.train_sequences = self.split.training(self.sequences)

    def _normalize(self):
        """Normalize columns as RecBole does, but the times that weigh targets by their age."""
        times = self.inter_feat[self.time_field]
        super()._normalize()
        if is_plugin_model(self.config.model_class):
            if not times.equals(self.inter_feat[self.time_field]):
                self.notes.append("timestamp is not normalized: targets are weighted by their age")
            self.inter_feat[self.time_field] = times

    def _holds(self, frame, column, token):
        """Mark the rows whose remapped column holds a token; joins make floats of the ids."""
        if column not in frame:
            return np.zeros(len(frame), dtype=bool)
        return (self.field2id_token[column] == token)[frame[column].to_numpy(dtype=np.int64)]

    def _change_feat_format(self):
        Dataset._change_feat_format(self)  # tensors, but no prefix rows: `build` makes them
        self._aug_presets()  # names, types and lengths of the list fields: some models ask
        self.inter_feat = None

    @property
    def inter_feat(self):
        """Rows as RecBole has them: a DataFrame until all is read, then an ``Interaction``.

        That of all rows is made on first use: training and serving have no use for it.
        """
        if self._rows is None:
            self._rows = self._all_of(self.evaluation_rows()[0]).inter_feat
        return self._rows

    @inter_feat.setter
    def inter_feat(self, rows):
        self._rows = rows

    @classmethod
    def saved_file(cls, config) -> Path:
        """Path of the file that ``save`` writes."""
        return Path(config["checkpoint_dir"], f"{config['dataset']}-{cls.__name__}.pth")

    def save(self) -> None:
        """Write the dataset as it is now, with digests of the files that it was read from.

        Raises
        ------
        ConfigError
            If loaders were made of it: it holds what a new one would be made from no longer.
        """
        if isinstance(self.inter_feat, Interaction):
            raise ConfigError(
                "loaders were made of this dataset: save it before data_preparation, or set "
                "save_dataset, or save_dataloaders"
            )
        self.saved_from = atomic.file_digests(self.dataset_path, self.dataset_name)
        write_pickle(self.saved_file(self.config), self)

    # -- what RecBole's loaders iterate over ----------------------------------------------------

    def __getitem__(self, index, join=True):
        """Rows with the columns of their users and items; a column alone by its name."""
        return super().__getitem__(index, join and not isinstance(index, str))

    def build(self):
        """Views with another ``inter_feat``: training rows, validation and test targets.

        Training rows are prefixes for sequential models of RecBole, pairs of users and items for
        general ones; that view holds nothing of the held-out rows.
        """
        self._change_feat_format()
        self._drop_unused_col()
        return [self._training_view(), *self._held_out()]

    def _held_out(self) -> list[CrossDomainDataset]:
        """Views of the validation and of the test targets."""
        rows, held_out = self.evaluation_rows()
        windows = [self._last_rows(rows, self.split.users, targets) for targets in held_out]
        valid, test = (self._view(rows, part, self._target_fields) for part in windows)
        valid.phase = "valid"
        return [valid, test]

    def _training_view(self) -> CrossDomainDataset:
        view = self._all_of(self.train_sequences)
        if not len(view) and not self.serves:
            raise DataError(
                "no user has two training rows, beside the two that are held out: there is "
                "nothing to train on"
            )
        view.sequences = self.train_sequences
        del view.split
        return view

    def _all_of(self, rows: Sequences) -> CrossDomainDataset:
        """View of all rows that are given: prefixes, or pairs of users and items."""
        if self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            prefixes = sequences.prefix_rows(rows, self.max_item_list_len)
            return self._view(rows, prefixes, self._target_fields)
        times = rows.timestamps.astype(np.float32)
        columns = {self.uid_field: rows.users, self.iid_field: rows.items.copy()}
        pairs = {**columns, self.time_field: times}
        return self.copy(Interaction({k: torch.from_numpy(v) for k, v in pairs.items()}))

    def inter_matrix(self, form="coo", value_field=None):
        """Sparse matrix [n_users, n_items] of a view's rows; the arguments are RecBole's."""
        of_prefixes = self.item_list_length_field in self.inter_feat
        owner = SequentialDataset if of_prefixes else Dataset
        return owner.inter_matrix(self, form, value_field)

    def evaluation_rows(self) -> tuple[Sequences, list[np.ndarray]]:
        """Rows that histories are cut from at evaluation; validation and test targets in them."""
        held_out = [self.split.valid_rows, self.split.test_rows]
        if self.config["augmented_histories"]:
            return self.sequences, held_out
        raw = ~self.sequences.augmented
        before = sequences.row_offsets(raw)
        return self.sequences.keep(raw), [before[targets] for targets in held_out]

    def _view(self, rows: Sequences, windows: Windows, fields) -> CrossDomainDataset:
        """Return a view whose targets are the rows after ``windows``."""
        ready = {
            self.uid_field: windows.users,
            self.iid_field: rows.items[windows.stops],
            self.time_field: rows.timestamps[windows.stops].astype(np.float32),
            self.item_list_length_field: windows.stops - windows.starts,
        }
        view = copy.copy(self)
        view.inter_feat = GatheredRows(ready, partial(_take, fields, rows, windows))
        return view

    def _target_fields(self, rows: Sequences, windows: Windows) -> dict[str, np.ndarray]:
        """Make what a model knows before each target; RecBole's own models know no domains."""
        if self.config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            return {}  # they know a user by the id alone
        model = self.config.model_class
        if not is_plugin_model(model) and not is_users_own(model):
            return self._mixed_fields(rows, windows)
        fields = self.history_fields(rows, windows.users, windows.stops)
        return {**fields, TARGET_DOMAIN: self.item_domain[rows.items[windows.stops]]}

    def _last_rows(self, rows: Sequences, users: np.ndarray, stops: np.ndarray) -> Windows:
        """Cut each user's rows before ``stops`` to the longest history."""
        starts = np.maximum(rows.offsets[users], stops - self.max_item_list_len)
        return Windows(users, starts, stops)

    def history_fields(
        self, rows: Sequences, users: np.ndarray, stops: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Make the fields of the histories of ``users`` [n] before rows ``stops`` [n] of ``rows``.

        They are the mixed sequence [n, longest history], the sub-sequence of each domain (eq. 2),
        their lengths [n], and which of their items preprocessing inserted.
        """
        width, first = self.max_item_list_len, rows.offsets[users]
        windows = self._last_rows(rows, users, stops)
        fields = self._mixed_fields(rows, windows)
        fields[AUGMENTED_LIST] = gather_padded(rows.augmented, windows.starts, stops, width)
        if self._cut[0] is not rows:  # kept for the next batch
            domains = range(len(self.domains))
            self._cut = rows, [sequences.domain_rows(rows, self.item_domain, d) for d in domains]
        for domain, own in enumerate(self._cut[1]):
            ends = own.index[stops]
            starts = np.maximum(own.index[first], ends - width)
            list_field, length_field = domain_fields(domain)
            fields[list_field] = gather_padded(own.items, starts, ends, width)
            fields[f"{AUGMENTED_LIST}_{domain}"] = gather_padded(own.augmented, starts, ends, width)
            fields[length_field] = ends - starts
        return fields

    def transformed(self, batch: Interaction) -> Interaction:
        """A batch for predictions, with what ``transform`` adds for a class of a user's own.

        RecBole's own models read such fields in training alone.
        """
        if not is_users_own(self.config.model_class):
            return batch
        return construct_transform(self.config)(self, batch)

    def _mixed_fields(self, rows: Sequences, windows: Windows) -> dict[str, np.ndarray]:
        width, suffix = self.max_item_list_len, self.config["LIST_SUFFIX"]
        times = gather_padded(rows.timestamps, windows.starts, windows.stops, width)
        items = gather_padded(rows.items, windows.starts, windows.stops, width)
        fields = {
            self.uid_field: windows.users,
            self.iid_field + suffix: items,
            self.time_field + suffix: times.astype(np.float32),
            self.item_list_length_field: windows.stops - windows.starts,
        }
        if "DIEN" in (base.__name__ for base in self.config.model_class.__mro__):
            # it reads an item beside each item of a sequence, which is another one
            negatives = np.zeros_like(items)
            drawn = SeqSampler(self).sample_neg_sequence(items[items > 0])
            negatives[items > 0] = drawn.numpy()
            fields[self.config["NEG_PREFIX"] + self.iid_field + suffix] = negatives
        return fields

    def windows(self) -> Windows:
        """Training windows, for models that learn from all positions of a sequence at once."""
        return sequences.training_windows(self.train_sequences, self.max_item_list_len)

    # -- evaluation -----------------------------------------------------------------------------

    def candidate_pools(self) -> list[np.ndarray]:
        """Return the raw items of each domain, ordered by token."""
        tokens = self.id2token(self.iid_field, np.arange(self.item_num))
        order = np.argsort(tokens.astype(str), kind="stable")
        raw = order[(order > 0) & ~self.item_generated[order]]
        return [raw[self.item_domain[raw] == domain] for domain in range(len(self.domains))]

    def raw_history(self, users: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Raw items of ``users`` [n] before rows ``stops`` [n]: offsets [n + 1], items [total]."""
        owners, rows = sequences.expand_ranges(self.sequences.offsets[users], stops)
        raw = ~self.sequences.augmented[rows]
        counts = np.bincount(owners[raw], minlength=len(users))
        return sequences.row_offsets(counts), self.sequences.items[rows[raw]]

    def sampled_candidates(self, phase: str, mode: str) -> np.ndarray | None:
        """Candidates of the "valid" or "test" targets: int32 [n_eval, N], None for mode ``full``.

        They depend on the raw data and ``candidate_seed`` alone.
        """
        size, split = sample_size(mode), self.split
        if size is None:
            return None
        targets = split.valid_rows if phase == "valid" else split.test_rows
        # Users in the order of their tokens and domains in the order of their names: neither ids,
        # which augmentation shifts, nor which domain is called A may change the draws.
        order = np.argsort(self.id2token(self.uid_field, split.users).astype(str), kind="stable")
        by_name = np.argsort(self.domains, kind="stable")
        pools = self.candidate_pools()
        sampled = sample_candidates(
            np.argsort(by_name)[self.item_domain[self.sequences.items[targets[order]]]],
            [pools[domain] for domain in by_name],
            *self.raw_history(split.users[order], split.test_rows[order] + 1),
            size,
            np.random.default_rng([int(self.config["candidate_seed"]), phase == "test", size]),
        )
        out = np.empty_like(sampled)
        out[order] = sampled
        return out
