"""Augmented variants of a data set: each is made once, by its settings, from the raw rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from recbole_edt.augment.pipeline import Pipeline, augment_settings
from recbole_edt.files import INTER_COLUMNS, read_table, replacing, write_table


def is_augmented(folder: Path) -> bool:
    """Tell whether a data set has been through ``recbole-edt augment``."""
    return (folder / "augmentation.json").is_file()


class Variants:
    """Augmented variants of one data set.

    Parameters
    ----------
    name : str
        The data set.
    source : Path
        Folder that holds its folder, raw or augmented; of augmented data the raw rows are taken.
    folder : Path
        Receives ``raw/`` (if the source is augmented) and one folder per variant.
    """

    def __init__(self, name: str, source: Path, folder: Path) -> None:
        self.name, self.source, self.folder = name, Path(source), Path(folder)

    def raw(self) -> Path:
        """Folder that holds the data set's folder without anything preprocessing added."""
        if not is_augmented(self.source / self.name):
            return self.source
        target = self.folder / "raw"
        done = target / self.name / f"{self.name}.inter"
        if not done.is_file():
            strip_augmentation(self.source / self.name, target / self.name)
        return target

    def make(self, settings: Mapping[str, Any]) -> Path:
        """Return the folder that holds an augmented variant's folder; make it if it is not there.

        Parameters
        ----------
        settings : mapping
            Keys of ``recbole-edt augment`` that differ from its defaults. Where the raw data have
            embeddings of their items, ``encoder`` is ``file`` unless it is given.
        """
        settings = dict(settings)
        raw = self.raw()
        if (raw / self.name / f"{self.name}.item_emb.npy").is_file():
            settings.setdefault("encoder", "file")
        full = augment_settings(settings)
        digest = sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:12]
        target = self.folder / f"augmented-{digest}"
        if not is_augmented(target / self.name):
            Pipeline(self.name, raw, target, full).run()
        return target

    def report(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what augmenting a variant reported (``augmentation.json``)."""
        path = self.make(settings) / self.name / "augmentation.json"
        return json.loads(path.read_text(encoding="utf-8"))


def strip_augmentation(source: Path, target: Path) -> None:
    """Write the raw rows and items of an augmented data set; ``.inter`` comes last.

    Parameters
    ----------
    source, target : Path
        Folders of the data set, of the same name.
    """
    name = source.name
    inter, items = read_table(source / f"{name}.inter"), read_table(source / f"{name}.item")
    kept = (items["generated"] != "1").to_numpy()
    vectors = source / f"{name}.item_emb.npy"
    if vectors.is_file():
        with replacing(target / f"{name}.item_emb.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.load(vectors, mmap_mode="r")[kept])
    columns = {column: "token" for column in items.columns if column != "generated"}
    columns |= {c: "token_seq" for c in ("title", "brand", "categories", "description")
                if c in columns}  # fmt: skip
    columns |= {c: "float" for c in ("price",) if c in columns}
    write_table(items[kept], columns, target / f"{name}.item")
    raw = inter[inter["augmented"] != "1"]
    write_table(raw, INTER_COLUMNS, target / f"{name}.inter")
