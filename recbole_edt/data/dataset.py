"""One dataset for every model: atomic files in, leak-free training rows and targets out."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils.enum_type import FeatureType

from recbole_edt.data.atomic import (
    check_files,
    check_frames,
    check_users,
    domain_names,
    flag_column,
    is_blank,
    load_embeddings,
    read_columns,
)
from recbole_edt.data.candidates import sample_candidates, sample_size
from recbole_edt.data.sequences import (
    LeaveOneOut,
    Sequences,
    Windows,
    build_sequences,
    gather_padded,
    in_domain_index,
    leave_one_out,
    prefix_rows,
    training_windows,
)
from recbole_edt.errors import DataError
from recbole_edt.files import read_table

TARGET_DOMAIN = "target_domain"
"""Field of an evaluation batch: the domain (0 or 1) of each target."""


def domain_fields(domain: int) -> tuple[str, str]:
    """Names of the batch fields that hold a domain's sub-sequence and its length (eq. 2)."""
    return f"item_id_list_{domain}", f"item_length_{domain}"


AUGMENTED_LIST = "augmented_list"
"""Field of an evaluation batch: which items of the history preprocessing inserted, bool [B, L].

With ``_<domain>`` behind it, the same of the domain's sub-sequence.
"""


class CrossDomainDataset(SequentialDataset):
    """Sequences of users over two domains, split leave-one-out on raw rows.

    Reads ``<D>.inter``, ``<D>.item`` and, where present, ``<D>.user``, ``<D>.item_emb.npy`` and
    ``<D>.user_emb.npy`` (specification, section 2), and keeps RecBole's interface, so that
    RecBole's built-in models train on it unchanged.

    Attributes
    ----------
    domains : list of str
        Names of domain A and domain B.
    item_domain : np.ndarray
        int64 [n_items]; 0 or 1, and -1 for the padding item.
    item_generated : np.ndarray
        bool [n_items]; items that exist only because preprocessing generated them.
    sequences : Sequences
        All rows, by (user, position).
    split : LeaveOneOut
        What is trained on and what is held out.
    train_sequences : Sequences
        The training rows alone.

    Raises
    ------
    DataError
        If the files break the data contract.
    ProtocolError
        If augmented rows stand where only held-out rows may.
    """

    inter_feat: Any  # DataFrames while they are read, afterwards RecBole's Interactions
    item_feat: Any

    def _load_data(self, token, dataset_path):
        check_files(dataset_path, token)
        super()._load_data(token, dataset_path)
        self.item_lines = count_lines(Path(dataset_path) / f"{token}.item")
        check_frames(self.inter_feat, self.item_feat, self.item_lines, token)
        self.domains = domain_names(self.item_feat, self.config["domains"], token)
        flag_column(self.inter_feat, "augmented", f"{token}.inter")
        flag_column(self.item_feat, "generated", f"{token}.item")
        self._file_items = self.item_feat[self.iid_field].to_numpy()
        user_feat = self.user_feat
        self._file_users = None
        if user_feat is not None:
            user_lines = count_lines(Path(dataset_path) / f"{token}.user")
            check_users(user_feat[self.uid_field], user_lines, token)
            self._file_users = user_feat[self.uid_field].to_numpy()
        if not self.config["augmentation"]:
            self._drop_augmentation()

    def _load_feat(self, filepath, source):
        """Read one atomic file: RecBole's reader, but tab-separated text is taken literally.

        RecBole lets pandas interpret quotation marks and names such as "NA"; titles hold both.
        """
        load_col, _ = self._get_load_and_unload_col(source)
        columns = read_columns(filepath, load_col)
        try:
            frame = pd.read_csv(
                filepath,
                sep="\t",
                usecols=[f"{name}:{ftype}" for name, ftype in columns],
                dtype={
                    f"{name}:{ftype}": np.float64 if ftype == "float" else str
                    for name, ftype in columns
                },
                index_col=False,
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                na_values={
                    f"{name}:{ftype}": ["", "nan", "NaN"] if ftype == "float" else [""]
                    for name, ftype in columns
                },
                encoding="utf-8-sig",
            )
        except (ValueError, pd.errors.ParserError) as error:
            raise DataError(f"{filepath}: {str(error).splitlines()[0]}") from error
        frame.columns = [name for name, _ in columns]
        for name, ftype in columns:
            self.field2source[name], self.field2type[name] = source, FeatureType(ftype)
            self.field2seqlen[name] = 1
            if "float" in ftype:
                self.field2bucketnum[name] = 2
            if ftype.endswith("seq"):
                frame[name] = [np.array(str(text).split()) for text in frame[name].fillna("")]
                self.field2seqlen[name] = max(map(len, frame[name]))
        return frame

    def _get_remap_list(self, field_list):
        """Number items and users by the lines of their own files: held-out rows play no part."""
        return super()._get_remap_list(field_list)[::-1]

    def _drop_augmentation(self):
        """Forget everything preprocessing added: the data are then the raw data exactly."""
        inserted = flag_column(self.inter_feat, "augmented", "inter")
        generated = flag_column(self.item_feat, "generated", "item")
        self.inter_feat = self.inter_feat[~inserted].reset_index(drop=True)
        self.item_feat = self.item_feat[~generated].reset_index(drop=True)

    def _data_filtering(self):
        """Filter nothing: filters belong to preprocessing, and would shift positions here."""

    def _data_processing(self):
        super()._data_processing()
        item = self.item_feat
        names = self._tokens(item, "domain")
        self.item_domain = np.full(self.item_num, -1, dtype=np.int64)
        for domain, name in enumerate(self.domains):
            self.item_domain[names == name] = domain
        self.item_generated = self._flags(item, "generated")
        inter = self.inter_feat
        self.sequences = build_sequences(
            inter[self.uid_field].to_numpy(),
            inter[self.iid_field].to_numpy(),
            inter["position"].to_numpy(dtype=np.float64),
            self._flags(inter, "augmented"),
            inter[self.time_field].to_numpy(dtype=np.float64),
            self.user_num,
        )
        generated = self.item_generated[self.sequences.items]
        if (generated & ~self.sequences.augmented).any():
            raise DataError("a raw row names a generated item: mark the row as augmented")
        self.split: LeaveOneOut = leave_one_out(self.sequences)
        if not len(self.split.users):
            raise DataError("no user has three raw rows: there is nothing to evaluate on")
        self.train_sequences: Sequences = self.split.training(self.sequences)

    def _flags(self, frame, column):
        if column not in frame:
            return np.zeros(len(frame), dtype=bool)
        return self._tokens(frame, column) == "1"

    def _tokens(self, frame, column):
        """Read a remapped token column back as text; joins have made floats of the ids."""
        return self.field2id_token[column][frame[column].to_numpy(dtype=np.int64)]

    def _change_feat_format(self):
        Dataset._change_feat_format(self)  # tensors, but no prefix rows: `build` makes them
        self._aug_presets()  # names, types and lengths of the list fields: some models ask

    # -- embeddings -----------------------------------------------------------------------------

    def _embedding_path(self, what: str) -> Path:
        return Path(self.dataset_path) / f"{self.dataset_name}.{what}_emb.npy"

    def item_titles(self) -> dict[str, str]:
        """Titles of the items by id, as ``.item`` has them; empty without a column of titles."""
        frame = read_table(Path(self.dataset_path) / f"{self.dataset_name}.item")
        if "title" not in frame:
            return {}
        return dict(zip(frame["item_id"], frame["title"].str.strip(), strict=True))

    def item_embeddings(self) -> np.ndarray:
        """Text embedding of every item in the order of the item ids; row 0 (padding) is zero.

        Returns
        -------
        np.ndarray
            float32 [n_items, d_L].

        Raises
        ------
        DataError
            If the file is missing, damaged or does not match ``.item``.
        """
        matrix = load_embeddings(self._embedding_path("item"), self.item_lines, "item")
        return self._by_id(matrix, self._file_items, self.iid_field, self.item_num)

    def user_embeddings(self) -> np.ndarray | None:
        """Profile embedding of every user in the order of the user ids, or None without a file.

        A user without a profile has a zero row.

        Returns
        -------
        np.ndarray or None
            float32 [n_users, d_L].
        """
        path = self._embedding_path("user")
        if not path.is_file():
            return None
        if self._file_users is None:
            raise DataError(f"{path} has no {self.dataset_name}.user beside it")
        matrix = load_embeddings(path, len(self._file_users), "user")
        return self._by_id(matrix, self._file_users, self.uid_field, self.user_num)

    def _by_id(self, matrix, tokens, field, n):
        known = self.field2token_id[field]
        rows = np.array([i for i, token in enumerate(tokens) if token in known], dtype=np.int64)
        ids = np.array([known[tokens[i]] for i in rows], dtype=np.int64)
        out = np.zeros((n, matrix.shape[1]), dtype=np.float32)
        out[ids] = matrix[rows]
        return out

    # -- what RecBole's loaders iterate over ----------------------------------------------------

    def build(self):
        """Build the training, validation and test views.

        Returns
        -------
        list of CrossDomainDataset
            Views of this dataset that differ in ``inter_feat`` alone: prefix rows for training,
            one row per target for validation and test.
        """
        self._change_feat_format()
        windows = prefix_rows(self.train_sequences, self.max_item_list_len)
        known = self._history_fields(self.train_sequences, windows)
        views = [self._view(self.train_sequences, windows.stops, known)]
        rows, held_out = self.evaluation_rows()
        for targets in held_out:
            known = self.history_fields(rows, self.split.users, targets)
            view = self._view(rows, targets, known)
            domains = torch.from_numpy(self.item_domain[rows.items[targets]])
            view.inter_feat.update(Interaction({TARGET_DOMAIN: domains}))
            views.append(view)
        self.inter_feat = views[-1].inter_feat  # RecBole profiles a model on one row of it
        return views

    def evaluation_rows(self) -> tuple[Sequences, list[np.ndarray]]:
        """Rows that a user is known by at evaluation, and where in them the targets are."""
        held_out = [self.split.valid_rows, self.split.test_rows]
        if self.config["augmented_histories"]:
            return self.sequences, held_out
        raw = ~self.sequences.augmented
        before = np.cumsum(raw) - 1
        return self.sequences.keep(raw), [before[targets] for targets in held_out]

    def _view(
        self, rows: Sequences, targets: np.ndarray, known: dict[str, np.ndarray]
    ) -> CrossDomainDataset:
        """Return a view of targets (row numbers) and the fields that their users are known by."""
        fields = {
            self.uid_field: known[self.uid_field],
            self.iid_field: rows.items[targets],
            self.time_field: rows.timestamps[targets].astype(np.float32),
            **known,
        }
        view = copy.copy(self)
        view.inter_feat = Interaction({name: torch.from_numpy(v) for name, v in fields.items()})
        return view

    def history_fields(
        self, rows: Sequences, users: np.ndarray, stops: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the fields that a model knows users by: their last rows before some row.

        Parameters
        ----------
        rows : Sequences
            Where the rows are taken from.
        users : np.ndarray
            int64 [n]; users of ``rows``.
        stops : np.ndarray
            int64 [n]; the row of each user before which his history ends.

        Returns
        -------
        dict
            Name -> array [n] or [n, longest history]: the mixed sequence, both domains'
            sub-sequences (eq. 2), their lengths, and what of them preprocessing inserted.
        """
        width, first = self.max_item_list_len, rows.offsets[users]
        windows = Windows(users, np.maximum(first, stops - width), stops)
        fields = self._history_fields(rows, windows)
        fields[AUGMENTED_LIST] = gather_padded(rows.augmented, windows.starts, stops, width)
        for domain in range(len(self.domains)):
            index = in_domain_index(rows, self.item_domain, domain)
            inside = self.item_domain[rows.items] == domain
            ends = index[stops]
            starts = np.maximum(index[first], ends - width)
            list_field, length_field = domain_fields(domain)
            fields[list_field] = gather_padded(rows.items[inside], starts, ends, width)
            fields[f"{AUGMENTED_LIST}_{domain}"] = gather_padded(
                rows.augmented[inside], starts, ends, width
            )
            fields[length_field] = ends - starts
        return fields

    def _history_fields(self, rows: Sequences, windows: Windows) -> dict[str, np.ndarray]:
        """Return the fields that RecBole's own models know users by."""
        width, suffix = self.max_item_list_len, self.config["LIST_SUFFIX"]
        times = gather_padded(rows.timestamps, windows.starts, windows.stops, width)
        return {
            self.uid_field: windows.users,
            self.iid_field + suffix: rows.pad(windows.starts, windows.stops, width),
            self.time_field + suffix: times.astype(np.float32),
            self.item_list_length_field: windows.stops - windows.starts,
        }

    def windows(self) -> Windows:
        """Training windows for models that learn from all positions of a sequence in one pass."""
        return training_windows(self.train_sequences, self.max_item_list_len)

    # -- evaluation -----------------------------------------------------------------------------

    def candidate_pools(self) -> list[np.ndarray]:
        """Return the raw items of each domain, ordered by token."""
        tokens = self.id2token(self.iid_field, np.arange(self.item_num))
        order = np.argsort(tokens.astype(str), kind="stable")
        raw = order[(order > 0) & ~self.item_generated[order]]
        return [raw[self.item_domain[raw] == domain] for domain in range(len(self.domains))]

    def raw_history(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each user's raw items before his row ``rows``: offsets [n_eval + 1], items."""
        all_rows = self.sequences
        stop = np.full(self.user_num, -1, dtype=np.int64)
        stop[self.split.users] = rows
        owner = all_rows.users
        keep = ~all_rows.augmented & (np.arange(len(all_rows.items)) < stop[owner])
        counts = np.bincount(owner[keep], minlength=self.user_num)[self.split.users]
        return np.concatenate([[0], np.cumsum(counts)]), all_rows.items[keep]

    def sampled_candidates(self, phase: str, mode: str) -> np.ndarray | None:
        """Candidates of the validation or test targets in the order of ``split.users``.

        They depend on the raw data and ``candidate_seed`` alone (specification, section 3).

        Parameters
        ----------
        phase : {"valid", "test"}
            Which targets.
        mode : str
            ``full`` or ``uniN``.

        Returns
        -------
        np.ndarray or None
            int64 [n_eval, N]; None for ``full``.
        """
        size = sample_size(mode)
        if size is None:
            return None
        targets = self.split.valid_rows if phase == "valid" else self.split.test_rows
        # users in the order of their tokens, so that ids (which augmentation shifts) play no part
        tokens = self.id2token(self.uid_field, self.split.users).astype(str)
        order = np.argsort(tokens, kind="stable")
        offsets, items = self.raw_history(self.split.test_rows + 1)
        lengths = np.diff(offsets)[order]
        starts = offsets[:-1][order]
        by_token = np.concatenate([[0], np.cumsum(lengths)])
        gathered = items[np.repeat(starts - by_token[:-1], lengths) + np.arange(by_token[-1])]
        # domains in the order of their names too: which one is called A plays no part either
        by_name = np.argsort(self.domains, kind="stable")
        pools = self.candidate_pools()
        sampled = sample_candidates(
            np.argsort(by_name)[self.item_domain[self.sequences.items[targets]]][order],
            [pools[domain] for domain in by_name],
            by_token,
            gathered,
            size,
            np.random.default_rng([int(self.config["candidate_seed"]), phase == "test", size]),
        )
        out = np.empty_like(sampled)
        out[order] = sampled
        return out


def count_lines(path: Path) -> int:
    """Count the non-empty lines of a text file below its header."""
    with path.open("rb") as file:
        return sum(1 for line in file if not is_blank(line)) - 1
