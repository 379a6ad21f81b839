"""One dataset for every model: atomic files in, leak-free training rows and targets out."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.sampler import SeqSampler
from recbole.utils.enum_type import FeatureSource, FeatureType, ModelType

from recbole_edt.data import sequences
from recbole_edt.data.candidates import sample_candidates, sample_size
from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.data.gathered import GatheredRows
from recbole_edt.data.known import Known
from recbole_edt.data.sequences import Sequences, Windows, gather_padded
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io import atomic
from recbole_edt.io.files import LITERALLY, read_table, write_pickle
from recbole_edt.registry import is_plugin_model, is_users_own
from recbole_edt.settings import is_interval

# Fields of an evaluation batch.
TARGET_DOMAIN = "target_domain"  # domain (0 or 1) of each target, [B]
AUGMENTED_LIST = "augmented_list"  # items that preprocessing inserted, bool [B, L]; also _<domain>

_FILTERS = (
    "rm_dup_inter", "val_interval", "filter_inter_by_user_or_item", "user_inter_num_interval",
    "item_inter_num_interval",
)  # fmt: skip


def domain_fields(domain: int) -> tuple[str, str]:
    """Fields of an evaluation batch: a domain's sub-sequence (eq. 2) [B, L], its length [B]."""
    return f"item_id_list_{domain}", f"item_length_{domain}"


def _take(fields, rows: Sequences, windows: Windows, at: np.ndarray) -> dict[str, np.ndarray]:
    return fields(rows, windows.take(at))  # at the top of the module, for pickle


class CrossDomainDataset(SequentialDataset):
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

    inter_feat: Any  # DataFrames while they are read, afterwards RecBole's Interactions
    item_feat: Any
    _cut: tuple[Any, list] = (None, [])  # sequences, and their rows of each domain
    _without_profile: frozenset[str] = frozenset()  # users
    left_out: frozenset[str] = frozenset()
    filters: str = ""  # keys of those that filter rows
    phase = "test"  # whose targets a view that is evaluated has
    _dropped: pd.DataFrame | None = None  # users and items of the raw rows that filters dropped

    def __init__(self, config, known: Known | None = None):
        self.known = known
        self.tables_read: set[str] = set()  # its views share it
        super().__init__(config)

    @property
    def serves(self) -> bool:
        """Whether a trained model is asked about these data, and none is trained on them."""
        return self.known is not None and self.known.serves

    def _load_data(self, token, dataset_path):
        atomic.check_files(dataset_path, token)
        self._file_ids: dict[FeatureSource, np.ndarray] = {}
        self._only_filtered: list[str] = []
        self.notes: list[str] = []
        super()._load_data(token, dataset_path)
        if atomic.derive_positions(self.inter_feat):
            self.set_field_property("position", FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
            self.notes.append(atomic.BY_TIME)
        self._check_fields()
        atomic.check_frames(self.inter_feat, self.item_feat, token)
        self.domains = atomic.domain_names(self.item_feat, self.config["domains"], token)
        inserted = atomic.flag_column(self.inter_feat, "augmented", f"{token}.inter")
        generated = atomic.flag_column(self.item_feat, "generated", f"{token}.item")
        of_generated = self.inter_feat["item_id"].isin(self.item_feat["item_id"][generated])
        if (of_generated & ~inserted).any():
            raise DataError("a raw row names a generated item: mark the row as augmented")
        if not self.config["augmentation"]:  # the raw data exactly
            self.inter_feat = self.inter_feat[~inserted].reset_index(drop=True)
            self.item_feat = self.item_feat[~generated].reset_index(drop=True)
        if "unsold" in self.item_feat:
            self._leave_out_unsold()

    def _leave_out_unsold(self) -> None:
        """Leave items without rows to be served: as negatives they would all sink to the end.

        Those that the model of an earlier run knows stay.
        """
        items, known = self.item_feat["item_id"], self.known
        unsold = atomic.flag_column(self.item_feat, "unsold", f"{self.dataset_name}.item")
        unsold = unsold & ~items.isin(self.inter_feat["item_id"]).to_numpy()
        if known is not None:
            unsold = unsold & ~(known.serves | items.isin(known.items).to_numpy())
        if unsold.any():
            self.item_feat = self.item_feat[~unsold].reset_index(drop=True)
            n = int(unsold.sum())
            self.notes.append(f"items without rows, left out of training and evaluation: {n:,}")
        self._del_col(self.item_feat, "unsold")

    def _load_feat(self, filepath, source):
        """Read one atomic file: RecBole's reader, but tab-separated text is taken literally.

        RecBole lets pandas interpret quotation marks and names such as "NA"; titles hold both.
        Tokens are categories: each text once, and a small number per row.
        """
        columns = self._columns(filepath, source)
        typed = {f"{name}:{ftype}": ftype for name, ftype in columns.items()}
        dtypes: dict[str, Any] = {"float": np.float64}
        missing = {"float": ["", "nan", "NaN"]}
        options = {
            "dtype": {column: dtypes.get(ftype, str) for column, ftype in typed.items()},
            "na_values": {column: missing.get(ftype, [""]) for column, ftype in typed.items()},
        }
        try:
            frame = pd.read_csv(filepath, usecols=[*typed], **options, **LITERALLY)
            frame.columns = list(columns)
            for name in (name for name, ftype in columns.items() if ftype == "token"):
                frame[name] = frame[name].astype("category")  # pandas would read "007" as 7
            for name in (name for name, ftype in columns.items() if ftype.endswith("seq")):
                frame[name] = self._split(frame[name], name, columns[name])
        except (ValueError, pd.errors.ParserError) as error:
            what = atomic.find_no_number(filepath, columns) or str(error).splitlines()[0]
            raise DataError(f"{filepath}: {what}") from error
        for name, ftype in columns.items():
            self.field2source[name], self.field2type[name] = source, FeatureType(ftype)
            self.field2seqlen[name] = max(map(len, frame[name])) if ftype.endswith("seq") else 1
            if "float" in ftype:
                self.field2bucketnum[name] = 2
        if source in (FeatureSource.USER, FeatureSource.ITEM):  # RecBole would drop repeated ids
            field = self.uid_field if source is FeatureSource.USER else self.iid_field
            atomic.check_tokens(frame, field, Path(filepath).name)
            self._file_ids[source] = frame[field].astype(object).to_numpy()
        return frame

    def _columns(self, filepath, source) -> dict[str, str]:
        """Columns of an atomic file to read, with their types.

        They are those of the data contract, those that ``load_col`` names or ``unload_col`` leaves,
        and those that ``val_interval`` filters by, which are dropped again.
        """
        there, suffix = atomic.read_columns(filepath), getattr(source, "value", source)
        asked, unwanted = self._get_load_and_unload_col(source)
        contract = atomic.contract_columns(suffix)
        for name in {*(asked or ()), *(unwanted or ())} - contract - there.keys():
            raise DataError(
                f"{filepath} has no column '{name}', which load_col or unload_col names "
                f"(its columns: {', '.join(there)})"
            )
        if kept := contract & (unwanted or set()):
            raise DataError(
                f"{filepath}: column '{min(kept)}' is needed: unload_col cannot name it"
            )
        wanted = contract | (there.keys() - (unwanted or set()) if asked is None else asked)
        if not wanted:
            raise DataError(f"load_col names no column of {filepath}")
        filtered = {*(self.config["val_interval"] or ())} & there.keys() - wanted
        self._only_filtered += filtered
        return {name: ftype for name, ftype in there.items() if name in wanted | filtered}

    def _split(self, column: pd.Series, name: str, ftype: str) -> list[np.ndarray]:
        """Split the texts of a column of sequences."""
        separator, limit = self.config["seq_separator"], (self.config["seq_len"] or {}).get(name)
        parts = ([p for p in text.split(separator) if p][:limit] for text in column.fillna(""))
        dtype = np.float64 if ftype.startswith("float") else None
        return [np.array(words, dtype) for words in parts]

    def _check_fields(self) -> None:
        """Refuse a key that names a column which is not loaded."""
        for key in (
            "val_interval", "alias_of_user_id", "alias_of_item_id", "normalize_field",
            "discretization", "numerical_features", "preload_weight", "seq_len",
        ):  # fmt: skip
            given = self.config[key] or {}
            names = {*given, *(given.values() if key == "preload_weight" else ())}
            for name in names - self.field2type.keys():
                raise DataError(
                    f"{key} names '{name}', which is no column that is loaded: see load_col"
                )

    def _get_remap_list(self, field_list):
        """Number items and users by the lines of their own files, not by held-out rows."""
        return super()._get_remap_list(field_list)[::-1]

    def _data_filtering(self):
        self._filter_rows()
        if self.known is not None:
            self.known.arrange(self)

    def _filter_rows(self) -> None:
        """Filter the raw rows as RecBole does; what was inserted for those that are gone goes too.

        Where a filter moves a user's split, rows are held out that preprocessing has seen: what it
        made for this user is left out.
        """
        used = [key for key in _FILTERS if self.config[key] and self.config[key] != "[0,inf)"]
        if not used:
            return
        filters, user, item = " and ".join(used), self.uid_field, self.iid_field
        self.filters = filters
        rows, items = self.inter_feat, self.item_feat
        inserted = atomic.flag_column(rows, "augmented", f"{self.dataset_name}.inter")
        generated = atomic.flag_column(items, "generated", f"{self.dataset_name}.item")
        self.inter_feat, self.item_feat = rows[~inserted].copy(), items[~generated].copy()
        held_out = self._held_out_index()
        self._remove_duplication()
        self._filter_by_field_value()
        self._filter_inter_by_user_or_item()
        self._filter_by_inter_num()
        if self.inter_feat.empty:
            raise DataError(f"{filters}: no row is left")
        moved = rows.loc[self._held_out_index().difference(held_out), user].unique()
        self.item_feat = items.loc[self.item_feat.index.union(items.index[generated])]
        stays = (
            rows[user].isin(self.inter_feat[user])
            & ~rows[user].isin(moved)
            & rows[item].isin(self.item_feat[item])
        )
        self._dropped = rows.loc[~inserted & ~rows.index.isin(self.inter_feat.index), [user, item]]
        self.inter_feat = rows.loc[self.inter_feat.index.union(rows.index[inserted & stays])]
        self._without_profile = frozenset(moved)
        if self._only_filtered:
            for field in self._only_filtered:
                self._del_col(self.field2feats(field)[0], field)
            self._init_alias()
        self._reset_index()
        for name in self.domains:
            if not (self.item_feat["domain"] == name).any():
                raise DataError(f"{filters}: no item of {name} is left")
        self.notes.append(f"{filters}: {len(self.inter_feat):,} of {len(rows):,} rows are kept")
        if len(moved) and (inserted.any() or self._path("user_emb.npy").is_file()):
            self.notes.append(
                f"{filters}: other rows of {len(moved):,} users are held out; inserted rows and "
                "profiles that were made from these rows are left out"
            )

    def _held_out_index(self) -> pd.Index:
        """Index of the rows that the split holds out: the last two of three or more of a user."""
        rows = self.inter_feat.sort_values("position")
        positions = rows.groupby(self.uid_field, observed=True)["position"]
        last = positions.cumcount(ascending=False) < 2
        return rows.index[(last & (positions.transform("size") >= 3)).to_numpy()]

    def _remove_duplication(self):
        """Keep the first or last row of a user and an item, in the order of ``position``."""
        if keep := self.config["rm_dup_inter"]:
            rows = self.inter_feat.sort_values("position")
            repeated = rows.duplicated([self.uid_field, self.iid_field], keep=keep)
            self.inter_feat = rows[~repeated].sort_index()

    def _filter_by_field_value(self):
        for field, kept in (self.config["val_interval"] or {}).items():
            ftype = self.field2type[field]
            if ftype not in (FeatureType.FLOAT, FeatureType.TOKEN):
                raise ConfigError(f"val_interval: '{field}' holds sequences, not values")
            if not (is_interval(kept) if ftype is FeatureType.FLOAT else isinstance(kept, list)):
                is_number = ftype is FeatureType.FLOAT
                takes = "an interval such as [3,5)" if is_number else "a list of names"
                raise ConfigError(f"val_interval: '{field}' takes {takes}, not {kept!r}")
        super()._filter_by_field_value()

    def _get_illegal_ids_by_inter_num(self, field, feat, inter_num, inter_interval=None):
        """Users or items whose number of rows is filtered out; items that a model knows stay."""
        illegal = super()._get_illegal_ids_by_inter_num(field, feat, inter_num, inter_interval)
        if self.known is None or field != self.iid_field:
            return illegal
        return illegal.difference(self.known.items.tolist())

    def _filter_inter_by_user_or_item(self):
        """Drop the rows of items and users that are gone, and with True of users never listed.

        False keeps the rows of such users; an item that is gone has no domain.
        """
        rows, is_strict = self.inter_feat, self.config["filter_inter_by_user_or_item"]
        stays = rows[self.iid_field].isin(self.item_feat[self.iid_field])
        if self.user_feat is not None and is_strict is not False:
            users = rows[self.uid_field]
            known = users.isin(self.user_feat[self.uid_field])
            if not is_strict:
                known |= ~users.isin(self._file_ids[FeatureSource.USER])
            stays &= known
        self.inter_feat = rows[stays]

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

    def _holds(self, frame, column, token):
        """Mark the rows whose remapped column holds a token; joins make floats of the ids."""
        if column not in frame:
            return np.zeros(len(frame), dtype=bool)
        return (self.field2id_token[column] == token)[frame[column].to_numpy(dtype=np.int64)]

    def _change_feat_format(self):
        Dataset._change_feat_format(self)  # tensors, but no prefix rows: `build` makes them
        self._aug_presets()  # names, types and lengths of the list fields: some models ask
        self.inter_feat = self._held_out()[1].inter_feat  # RecBole profiles a model on one row

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

    # -- embeddings -----------------------------------------------------------------------------

    def _path(self, suffix: str) -> Path:
        return Path(self.dataset_path) / f"{self.dataset_name}.{suffix}"

    def item_ids(self) -> list[str]:
        """Ids of all lines of ``.item``, whatever filters drop."""
        return self._file_ids[FeatureSource.ITEM].tolist()

    def item_titles(self) -> dict[str, str]:
        """Titles of the items by token; empty if ``.item`` has no titles."""
        frame = read_table(self._path("item"))
        column = next((column for column in ("title", "name") if column in frame), None)
        titles = frame[column].str.strip() if column else []
        return dict(zip(frame["item_id"], titles, strict=False))

    def item_table(self) -> EmbeddingTable:
        """Text embedding of every item by id, mapped from its file; row 0 (padding) is zero."""
        table = self._table("item", FeatureSource.ITEM, self.iid_field)
        atomic.check_distinct(table.matrix, self._path("item_emb.npy").name)
        return table

    def user_table(self) -> EmbeddingTable | None:
        """Profile embedding of every user by id (zero without one), or None without a file."""
        path = self._path("user_emb.npy")
        if not path.is_file():
            return None
        if FeatureSource.USER not in self._file_ids:
            raise DataError(f"{path} has no {self.dataset_name}.user beside it")
        table = self._table("user", FeatureSource.USER, self.uid_field)
        table.lines[np.isin(self.field2id_token[self.uid_field], [*self._without_profile])] = -1
        return table

    def _table(self, what: str, source: FeatureSource, field: str) -> EmbeddingTable:
        self.tables_read.add(what)
        ids = self._file_ids[source]
        matrix = atomic.load_embeddings(self._path(f"{what}_emb.npy"), len(ids), what)
        lines = pd.Index(ids).get_indexer(pd.Index(self.field2id_token[field].astype(object)))
        lines[0] = -1  # padding, even if a line has its name
        return EmbeddingTable(matrix, lines)

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
        rows = self.train_sequences
        if self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            prefixes = sequences.prefix_rows(rows, self.max_item_list_len)
            if not len(prefixes) and not self.serves:
                raise DataError(
                    "no user has two training rows, beside the two that are held out: there is "
                    "nothing to train on"
                )
            view = self._view(rows, prefixes, self._target_fields)
        else:
            times = rows.timestamps.astype(np.float32)
            columns = {self.uid_field: rows.users, self.iid_field: rows.items.copy()}
            pairs = {**columns, self.time_field: times}
            view = self.copy(Interaction({k: torch.from_numpy(v) for k, v in pairs.items()}))
        view.sequences = rows
        del view.split
        return view

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

    def was_dropped(self, field: str, token: str) -> bool:
        """Whether filters dropped a row of a user or an item."""
        return self._dropped is not None and bool((self._dropped[field] == token).any())

    def dropped_items(self) -> tuple[np.ndarray, np.ndarray]:
        """Items of the raw rows that filters dropped: offsets [n_users + 1], items [total]."""
        if self._dropped is None:
            return np.zeros(self.user_num + 1, dtype=np.int64), np.zeros(0, dtype=np.int64)
        users, items = (
            pd.Index(self.field2id_token[field]).get_indexer(self._dropped[field].astype(object))
            for field in (self.uid_field, self.iid_field)
        )
        there = (users > 0) & (items > 0)
        users, items = users[there], items[there]
        counts = np.bincount(users, minlength=self.user_num)
        return sequences.row_offsets(counts), items[np.argsort(users, kind="stable")]

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
