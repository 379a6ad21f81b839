"""RecBole's filters of raw rows, without what preprocessing made of rows that they hold out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from recbole.utils.enum_type import FeatureSource, FeatureType

from recbole_edt.data import sequences
from recbole_edt.data.reading import AtomicFiles
from recbole_edt.errors import ConfigError, DataError
from recbole_edt.io import atomic
from recbole_edt.settings import is_interval

_FILTERS = (
    "rm_dup_inter", "val_interval", "filter_inter_by_user_or_item", "user_inter_num_interval",
    "item_inter_num_interval",
)  # fmt: skip


class FilteredRows(AtomicFiles):
    """Reads atomic files, and filters their raw rows.

    A part of :class:`~recbole_edt.data.dataset.CrossDomainDataset`, which has the attributes.
    """

    filters: str = ""  # keys of those that filter rows
    _dropped: pd.DataFrame | None = None  # users and items of the raw rows that filters dropped

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
