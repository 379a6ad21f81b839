"""Augmented variants of a data set: each is made once, by its settings, from the raw rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole_edt.augment.output import REPORT
from recbole_edt.augment.pipeline import ANSWERS, Pipeline, cache_folder
from recbole_edt.augment.settings import AugmentSettings
from recbole_edt.errors import DataError
from recbole_edt.io import files
from recbole_edt.io.atomic import load_embeddings, read_columns
from recbole_edt.settings import validate


class Variants:
    """Augmented variants of the data set ``name``, made in ``folder``.

    ``source`` holds the data set's folder, raw or augmented. Of augmented data the raw rows are
    taken; variants differ from the settings that the data were augmented with. Their folders are
    named by settings and data, so that changed data have new ones.
    """

    def __init__(self, name: str, source: Path, folder: Path) -> None:
        self.name, self.source, self.folder = name, Path(source), Path(folder)
        self.augmented_source = (self.source / name / REPORT).is_file()

    def raw(self) -> Path:
        """Folder of the data set's folder without inserted rows, generated items and profiles."""
        if not self.augmented_source:
            return self.source
        target = self.folder / f"raw-{self._digest}"
        if not (target / self.name / f"{self.name}.inter").is_file():
            strip_augmentation(self.source / self.name, target / self.name)
        return target

    def make(self, changes: Mapping[str, Any]) -> Path:
        """Return the folder that holds an augmented variant's folder; make it if it is missing.

        ``changes`` are keys of ``recbole-edt augment``, in place of those that the source was
        augmented with, or of the defaults if it is raw. Data that have them already are their own
        variant.
        """
        settings = self.settings(changes)
        if self.augmented_source and settings == self.settings():
            return self.source
        named = [settings.model_dump(), self._digest]
        target = self.folder / f"augmented-{files.value_sha256(named)[:12]}"
        if not (target / self.name / REPORT).is_file():
            Pipeline(self.name, self.raw(), target, settings, self._cache()).run()
        return target

    @cached_property
    def _digest(self) -> str:
        from recbole_edt.trainer.checkpoint import data_digest  # loads torch

        return data_digest(self.source / self.name, self.name)

    def _cache(self) -> Path:
        """Folder of answers that all variants share: each is paid for once, here or before."""
        cache = cache_folder(self.folder, self.name)
        paid = cache_folder(self.source, self.name) / ANSWERS
        if paid.is_file() and not (cache / ANSWERS).exists():
            with files.atomic_write(cache / ANSWERS) as temporary:
                shutil.copyfile(paid, temporary)
        return cache

    def settings(self, changes: Mapping[str, Any] | None = None) -> AugmentSettings:
        """Settings of the data set's own variant, with changes."""
        base: dict[str, Any] = {}
        if self.augmented_source:
            base = _read_report(self.source / self.name)["settings"]
            if "file" in str(base.get("encoder")).split("+"):  # the data's file has joined vectors
                base = base | {"encoder": "file"}
        elif (self.source / self.name / f"{self.name}.item_emb.npy").is_file():
            base = {"encoder": "file"}
        changes = changes or {}
        if {"tau", "tau_quantile"} & {*changes}:  # they exclude each other
            base = {key: value for key, value in base.items() if not key.startswith("tau")}
        return validate(AugmentSettings, {**base, **changes})

    def estimate(self, changes: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Estimate what a variant would cost, stage by stage, without a call."""
        settings = self.settings(changes)
        return Pipeline(self.name, self.raw(), self.folder / "estimate", settings).estimate()

    def report(self) -> dict[str, Any]:
        """Return the report of the data set's own augmentation (``augmentation.json``)."""
        return _read_report(self.make({}) / self.name)


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged: augment the data again") from error


def strip_augmentation(source: Path, target: Path) -> None:
    """Write the raw rows and items of an augmented data set's folder; ``.inter`` comes last."""
    name = source.name
    inter, items = (files.read_table(source / f"{name}.{kind}") for kind in ("inter", "item"))
    raw_items = (items["generated"] != "1").to_numpy()
    vectors = source / f"{name}.item_emb.npy"
    if vectors.is_file():
        with files.atomic_write(target / vectors.name) as temporary:
            files.write_array(temporary, load_embeddings(vectors, len(items), "item")[raw_items])
    tables = {"item": items[raw_items].drop(columns="generated")}
    if (source / f"{name}.user").is_file():
        tables["user"] = files.read_table(source / f"{name}.user")
        tables["user"] = tables["user"].drop(columns="profile", errors="ignore")
    tables["inter"] = inter[inter["augmented"] != "1"].drop(columns="augmented")
    for kind, table in tables.items():
        if len(table.columns) > 1:
            columns = read_columns(source / f"{name}.{kind}", {*table.columns})
            files.write_table(table, columns, target / f"{name}.{kind}")
