"""One dataset for every model: atomic files in, leak-free training rows and targets out."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils.enum_type import FeatureType

from recbole_edt.data.candidates import sample_candidates, sample_size
from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.data.gathered import GatheredRows
from recbole_edt.data.sequences import (
    DomainRows,
    LeaveOneOut,
    Sequences,
    Windows,
    build_sequences,
    domain_rows,
    gather_padded,
    leave_one_out,
    prefix_rows,
    training_windows,
)
from recbole_edt.errors import DataError
from recbole_edt.io.atomic import (
    check_files,
    check_frames,
    check_users,
    domain_names,
    flag_column,
    is_blank,
    load_embeddings,
    read_columns,
)
from recbole_edt.io.files import read_table

TARGET_DOMAIN = "target_domain"
"""Field of an evaluation batch: the domain (0 or 1) of each target."""


def domain_fields(domain: int) -> tuple[str, str]:
    """Names of the batch fields that hold a domain's sub-sequence and its length (eq. 2)."""
    return f"item_id_list_{domain}", f"item_length_{domain}"


AUGMENTED_LIST = "augmented_list"
"""Field of an evaluation batch: which items of the history preprocessing inserted, bool [B, L].

With ``_<domain>`` behind it, the same of the domain's sub-sequence.
"""

_DTYPES: dict[str, Any] = {"float": np.float64, "token": "category"}
"""How columns are read; sequences of tokens as text."""


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
    _cut: tuple[Sequences, list[DomainRows]] | None = None

    def _load_data(self, token, dataset_path):
        check_files(dataset_path, token)
        super()._load_data(token, dataset_path)
        self.item_lines = count_lines(Path(dataset_path) / f"{token}.item")
        check_frames(self.inter_feat, self.item_feat, self.item_lines, token)
        self.domains = domain_names(self.item_feat, self.config["domains"], token)
        flag_column(self.inter_feat, "augmented", f"{token}.inter")
        flag_column(self.item_feat, "generated", f"{token}.item")
        self._file_items = self.item_feat[self.iid_field].astype(object).to_numpy()
        user_feat = self.user_feat
        self._file_users: np.ndarray | None = None
        if user_feat is not None:
            user_lines = count_lines(Path(dataset_path) / f"{token}.user")
            check_users(user_feat[self.uid_field], user_lines, token)
            self._file_users = user_feat[self.uid_field].astype(object).to_numpy()
        if not self.config["augmentation"]:
            self._drop_augmentation()

    def _load_feat(self, filepath, source):
        """Read one atomic file: RecBole's reader, but tab-separated text is taken literally.

        RecBole lets pandas interpret quotation marks and names such as "NA"; titles hold both.
        Tokens are kept as categories: each text once, and a small number per row.
        """
        load_col, _ = self._get_load_and_unload_col(source)
        columns = read_columns(filepath, load_col)
        try:
            frame = pd.read_csv(
                filepath,
                sep="\t",
                usecols=[f"{name}:{ftype}" for name, ftype in columns],
                dtype={f"{name}:{ftype}": _DTYPES.get(ftype, str) for name, ftype in columns},
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

    def _remap(self, remap_list):
        """Number tokens in the order in which they appear, as RecBole does.

        RecBole lines up the texts of all rows; here each column is numbered by itself, and only
        its distinct tokens meet those of the others.
        """
        if any(ftype != FeatureType.TOKEN for _, _, ftype in remap_list):
            super()._remap(remap_list)
            return
        numbered = [pd.factorize(feat[field].astype("category")) for feat, field, _ in remap_list]
        distinct = [np.asarray(uniques, dtype=object) for _, uniques in numbered]
        ids, tokens = pd.factorize(np.concatenate(distinct)) if distinct else ([], [])
        names = np.array(["[PAD]", *tokens])
        ends = np.cumsum([len(part) for part in distinct])
        for (feat, field, _), (codes, _), end, part in zip(
            remap_list, numbered, ends, distinct, strict=True
        ):
            by_code = np.concatenate([ids[end - len(part) : end] + 1, [0]])  # last: missing, -1
            if field not in self.field2id_token:
                self.field2id_token[field] = names
                self.field2token_id[field] = {t: i for i, t in enumerate(names.tolist())}
            feat[field] = by_code[codes]

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
        self.item_domain = np.full(self.item_num, -1, dtype=np.int64)
        for domain, name in enumerate(self.domains):
            self.item_domain[self._is_token(item, "domain", name)] = domain
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
        return self._is_token(frame, column, "1")

    def _is_token(self, frame, column, token):
        """Tell which rows of a remapped column hold a token; joins have made floats of the ids."""
        return (self.field2id_token[column] == token)[frame[column].to_numpy(dtype=np.int64)]

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

    def item_table(self) -> EmbeddingTable:
        """Text embedding of every item by id, mapped from its file; row 0 (padding) is zero.

        Raises
        ------
        DataError
            If the file is missing, damaged or does not match ``.item``.
        """
        matrix = load_embeddings(self._embedding_path("item"), self.item_lines, "item")
        return self._by_id(matrix, self._file_items, self.iid_field)

    def user_table(self) -> EmbeddingTable | None:
        """Profile embedding of every user by id, or None without a file.

        A user without a profile has a zero row.
        """
        path = self._embedding_path("user")
        if not path.is_file():
            return None
        if self._file_users is None:
            raise DataError(f"{path} has no {self.dataset_name}.user beside it")
        matrix = load_embeddings(path, len(self._file_users), "user")
        return self._by_id(matrix, self._file_users, self.uid_field)

    def item_embeddings(self) -> np.ndarray:
        """Rows of :meth:`item_table`, all in memory: float32 [n_items, d_L]."""
        return self.item_table().whole()

    def user_embeddings(self) -> np.ndarray | None:
        """Rows of :meth:`user_table`, all in memory: float32 [n_users, d_L], or None."""
        table = self.user_table()
        return None if table is None else table.whole()

    def _by_id(self, matrix: np.ndarray, tokens: np.ndarray, field: str) -> EmbeddingTable:
        lines = pd.Index(tokens).get_indexer(pd.Index(self.field2id_token[field].astype(object)))
        lines[0] = -1  # padding, even where a line is called as it is
        limit = self.config["text_limit"]
        return EmbeddingTable(matrix, lines, None if limit is None else limit * 2**20)

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
        rows = self.train_sequences
        prefixes = prefix_rows(rows, self.max_item_list_len)
        views = [
            self._view(rows, prefixes, lambda at: self._history_fields(rows, prefixes.take(at)))
        ]
        rows_known, held_out = self.evaluation_rows()
        for targets in held_out:
            views.append(self._evaluation_view(rows_known, targets))
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

    def _view(self, rows: Sequences, windows: Windows, gather) -> CrossDomainDataset:
        """Return a view of targets, the rows behind ``windows``; ``gather`` makes the histories."""
        ready = {
            self.uid_field: windows.users,
            self.iid_field: rows.items[windows.stops],
            self.time_field: rows.timestamps[windows.stops].astype(np.float32),
            self.item_list_length_field: windows.stops - windows.starts,
        }
        view = copy.copy(self)
        view.inter_feat = GatheredRows(ready, gather)
        return view

    def _evaluation_view(self, rows: Sequences, targets: np.ndarray) -> CrossDomainDataset:
        users = self.split.users

        def gather(at: np.ndarray) -> dict[str, np.ndarray]:
            fields = self.history_fields(rows, users[at], targets[at])
            fields[TARGET_DOMAIN] = self.item_domain[rows.items[targets[at]]]
            return fields

        return self._view(rows, self._last_rows(rows, users, targets), gather)

    def _last_rows(self, rows: Sequences, users: np.ndarray, stops: np.ndarray) -> Windows:
        """Return what of each user's rows before ``stops`` a history can hold."""
        return Windows(
            users, np.maximum(rows.offsets[users], stops - self.max_item_list_len), stops
        )

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
        windows = self._last_rows(rows, users, stops)
        fields = self._history_fields(rows, windows)
        fields[AUGMENTED_LIST] = gather_padded(rows.augmented, windows.starts, stops, width)
        for domain, own in enumerate(self._domain_rows(rows)):
            ends = own.index[stops]
            starts = np.maximum(own.index[first], ends - width)
            list_field, length_field = domain_fields(domain)
            fields[list_field] = gather_padded(own.items, starts, ends, width)
            fields[f"{AUGMENTED_LIST}_{domain}"] = gather_padded(own.augmented, starts, ends, width)
            fields[length_field] = ends - starts
        return fields

    def _domain_rows(self, rows: Sequences) -> list[DomainRows]:
        """Each domain's own rows; those asked for last are kept for the next batch."""
        if self._cut is None or self._cut[0] is not rows:
            domains = range(len(self.domains))
            self._cut = rows, [domain_rows(rows, self.item_domain, d) for d in domains]
        return self._cut[1]

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
            int32 [n_eval, N]; None for ``full``.
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
