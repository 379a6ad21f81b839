"""Atomic files of the data contract as RecBole's dataset reads them, and the embeddings beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import SequentialDataset
from recbole.utils.enum_type import FeatureSource, FeatureType

from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.data.known import Known
from recbole_edt.errors import DataError
from recbole_edt.io import atomic
from recbole_edt.io.files import LITERALLY, read_table


class AtomicFiles(SequentialDataset):
    """RecBole's dataset with the readers of the plugin: files are checked, text is literal.

    A part of :class:`~recbole_edt.data.dataset.CrossDomainDataset`, which has the attributes.
    """

    inter_feat: Any  # DataFrames while they are read, afterwards RecBole's Interactions
    item_feat: Any
    user_feat: Any
    item_domain: np.ndarray
    _without_profile: frozenset[str] = frozenset()  # users

    def __init__(self, config, known: Known | None = None):
        self.known = known
        self.notes: list[str] = []
        self.tables_read: set[str] = set()  # its views share it
        super().__init__(config)

    # -- rows and columns -----------------------------------------------------------------------

    def _load_data(self, token, dataset_path):
        atomic.check_files(dataset_path, token)
        self._file_ids: dict[FeatureSource, np.ndarray] = {}
        self._only_filtered: list[str] = []
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
            if key in ("discretization", "numerical_features"):
                for name in names & {"timestamp", "position"}:
                    raise DataError(
                        f"{key} names '{name}', which orders the rows and is no feature"
                    )
            for name in names - self.field2type.keys():
                raise DataError(
                    f"{key} names '{name}', which is no column that is loaded: see load_col"
                )

    def _get_remap_list(self, field_list):
        """Number items and users by the lines of their own files, not by held-out rows."""
        return super()._get_remap_list(field_list)[::-1]

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
        """Text embedding of every item by id, mapped from its file; row 0 (padding) is zero.

        It is refused where nearly all items are alike; those of one domain are named in the log.
        """
        is_first = "item" not in self.tables_read
        table = self._table("item", FeatureSource.ITEM, self.iid_field)
        atomic.check_distinct(table.matrix, self._path("item_emb.npy").name)
        for domain, name in enumerate(self.domains if is_first else []):
            of_domain = np.flatnonzero(self.item_domain == domain)
            said = atomic.how_alike(table[of_domain[atomic.compared(len(of_domain))]])
            if said:
                self.logger.warning(f"the text of {name} does not tell its items apart: {said}")
        return table

    def user_table(self) -> EmbeddingTable | None:
        """Profile embedding of every user by id (zero without one), or None without a file."""
        path = self._path("user_emb.npy")
        if not path.is_file():
            return None
        if FeatureSource.USER not in self._file_ids:
            raise DataError(f"{path} has no {self.dataset_name}.user beside it")
        is_first = "user" not in self.tables_read
        table = self._table("user", FeatureSource.USER, self.uid_field)
        some = table.matrix[atomic.compared(len(table.matrix))]
        said = atomic.how_alike(some[some.any(axis=1)])  # zero: no profile
        if said and is_first:
            self.logger.warning(f"{path.name} does not tell users apart: {said}")
        table.lines[np.isin(self.field2id_token[self.uid_field], [*self._without_profile])] = -1
        return table

    def _table(self, what: str, source: FeatureSource, field: str) -> EmbeddingTable:
        self.tables_read.add(what)
        ids = self._file_ids[source]
        matrix = atomic.load_embeddings(self._path(f"{what}_emb.npy"), len(ids), what)
        lines = pd.Index(ids).get_indexer(pd.Index(self.field2id_token[field].astype(object)))
        lines[0] = -1  # padding, even if a line has its name
        return EmbeddingTable(matrix, lines)
