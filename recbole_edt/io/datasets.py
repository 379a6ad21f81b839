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
from recbole_edt.settings import shell

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
    report: dict[str, Any],
    vectors: Mapping[str, np.ndarray] | None = None,
    corpus: Sequence[str] | None = None,
    report_name: str = "",
    note: Path | None = None,
) -> None:
    """Write a data set into a temporary folder, which then takes the place of the target.

    Parameters
    ----------
    tables, vectors : mapping
        By the suffix of the atomic file.
    report : dict
        Written as ``report_name``, by default ``<D>.statistics.json``, with the checksums of the
        files, which are added under ``prepared`` if it has that.
    corpus : sequence of str, optional
        Texts that the encoder of the vectors is fitted to, if not the items.
    note : Path, optional
        ``SIMULATED`` of the data that these were made of, if it exists.
    """
    partial = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")
    for left in (partial, old):  # of a killed run
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    file = f"{partial / target.name}"
    try:
        for suffix, (frame, columns) in tables.items():
            files.write_table(frame, columns, Path(f"{file}.{suffix}"))
        for suffix, matrix in (vectors or {}).items():
            files.write_array(Path(f"{file}.{suffix}_emb.npy"), matrix)
        if corpus:
            files.write_text(Path(f"{file}.{files.LSA_TEXTS}"), "\n".join(corpus))
        if note is not None and note.is_file():
            shutil.copyfile(note, partial / note.name)
        report.get("prepared", report)["sha256"] = {
            written.name: files.file_sha256(written) for written in sorted(partial.iterdir())
        }
        text = json.dumps(report, indent=1, ensure_ascii=False)
        files.write_text(partial / (report_name or f"{target.name}.statistics.json"), text + "\n")
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def command_line(command: str, dataset: str, folder: str) -> str:
    """Write a command that works on a data set, for a user to type next."""
    place = [] if folder == "dataset" else [f"--data_path={folder}"]
    return shell(*f"recbole-edt {command}".split(), f"--dataset={dataset}", *place)
