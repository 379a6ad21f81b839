"""Folders of data sets that commands make: written in one step, and never over anything else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_edt.errors import DataError
from recbole_edt.io import files

Tables = Mapping[str, tuple[pd.DataFrame, Mapping[str, str]]]
"""Suffix of an atomic file -> its rows, and the types of its columns."""


def taken(target: Path, problem: str) -> DataError:
    """Error about a folder whose content must not be lost."""
    return DataError(f"{target} exists and {problem}: remove it or choose another --output_path")


def read_statistics(target: Path, command: str) -> dict[str, Any] | None:
    """Read the statistics that a command wrote; None if there is no data set.

    Raises
    ------
    DataError
        If the folder holds anything that the command did not write.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    path = target / f"{target.name}.statistics.json"
    problem = ""
    try:
        statistics = json.loads(path.read_text(encoding="utf-8"))
        if statistics["prepared"].get("command", "prepare") != command:
            problem = f"was not made by {command}"
        for file, digest in statistics["prepared"]["sha256"].items():
            if not (target / file).is_file() or files.file_sha256(target / file) != digest:
                problem = "was changed since it was made"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        problem = f"was not made by {command}"
    if problem:
        raise taken(target, problem)
    return statistics


def write_dataset(
    target: Path,
    tables: Tables,
    statistics: dict[str, Any],
    vectors: np.ndarray | None = None,
    corpus: Sequence[str] | None = None,
) -> None:
    """Write a data set into a temporary folder, which then takes the place of the target.

    The checksums of its files are added to ``statistics["prepared"]``. ``vectors`` are the item
    embeddings, and ``corpus`` the texts that their encoder is fitted to, if not the items.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed run
    partial.mkdir(parents=True)
    file = f"{partial / target.name}"
    try:
        for suffix, (frame, columns) in tables.items():
            files.write_table(frame, columns, Path(f"{file}.{suffix}"))
        if vectors is not None:
            files.write_array(Path(f"{file}.item_emb.npy"), vectors)
        if corpus:
            files.write_text(Path(f"{file}.{files.LSA_TEXTS}"), "\n".join(corpus))
        statistics["prepared"]["sha256"] = {
            written.name: files.file_sha256(written) for written in sorted(partial.iterdir())
        }
        text = json.dumps(statistics, indent=1, ensure_ascii=False)
        files.write_text(Path(f"{file}.statistics.json"), text + "\n")
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def command_line(command: str, dataset: str, folder: str) -> str:
    """Write a command that works on a data set, for a user to type next."""
    place = "" if folder == "dataset" else f" --data_path={folder}"
    return f"recbole-edt {command} --dataset={dataset}{place}"


def replace_folder(folder: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one, which is removed."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(folder, target)
    shutil.rmtree(old, ignore_errors=True)
