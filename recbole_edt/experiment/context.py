"""What experiments work with: a data set and its variants, runs, groups of users, pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from recbole_edt.augment.histories import Histories, read_histories
from recbole_edt.evaluation.metrics import summarise
from recbole_edt.experiment.compare import Entry, results_of
from recbole_edt.experiment.runs import Run, RunStore, keys_for
from recbole_edt.experiment.tables import Table, to_markdown, write_tables
from recbole_edt.experiment.variants import Variants
from recbole_edt.io.files import atomic_write
from recbole_edt.io.paths import properties_dir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = dict[str, list[Run]]
"""Row of a table -> its runs, one per seed."""


@dataclass
class ExperimentContext:
    """A data set, its augmented variants, and the runs that experiments share.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    data_path : Path
        Folder that holds its folder, raw or augmented.
    folder : Path
        ``<output_path>/<dataset>``.
    seeds : sequence of int
        Of training.
    keys : mapping
        Settings of every run that knows them.
    budget : float, optional
        Seconds of training after which a stage of any run ends; None for no limit.
    """

    dataset: str
    data_path: Path
    folder: Path
    seeds: Sequence[int]
    keys: Mapping[str, Any] = field(default_factory=dict)
    budget: float | None = None

    def __post_init__(self) -> None:
        self.store = RunStore(self.folder / "runs")
        self.variants = Variants(self.dataset, self.data_path, self.folder / "data")
        self._histories: Histories | None = None

    def runs(
        self,
        entry: Entry,
        keys: Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
    ) -> list[Run]:
        """Return the runs of one row.

        Parameters
        ----------
        entry : Entry
            What is trained.
        keys : mapping, optional
            Further settings of it.
        augment : mapping, optional
            What its data are augmented with, where that differs from the data set's own.
        """
        raw = entry.raw and augment is None
        data_path = self.variants.raw() if raw else self.variants.make(augment or {})
        given = keys_for(self.keys, entry.model, self.dataset)
        settings = {**entry.keys, **(keys or {}), **given}
        if self.budget:
            settings["time_limit"] = self.budget
        return [Run(entry.model, self.dataset, data_path, seed, settings) for seed in self.seeds]

    def results(self, runs: Runs) -> dict[str, list[dict[str, Any]]]:
        """Results of those runs that are done, by row."""
        return {row: results_of(self.store, of_row) for row, of_row in runs.items()}

    def histories(self) -> Histories:
        """Raw training rows of every user."""
        if self._histories is None:
            self._histories = read_histories(self.variants.raw() / self.dataset, self.dataset)
        return self._histories

    def grouped(
        self, runs: Sequence[Run], groups: Mapping[str, np.ndarray], mode: str | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """Report the metrics of groups of users.

        Parameters
        ----------
        runs : sequence of Run
            Finished ones; others are left out.
        groups : mapping
            Name -> bool [n_users], by user of :meth:`histories`.
        mode : str, optional
            Protocol; by default each run's main one.

        Returns
        -------
        dict
            Group -> one report per run, as in a results file.
        """
        out: dict[str, list[dict[str, Any]]] = {name: [] for name in groups}
        domains = self.histories().domains
        for run in runs:
            results = self.store.results(run)
            if results is None:
                continue
            ranks = self.store.ranks(run)
            metrics = [name for name in results["test"]["overall"] if name != "n"]
            mine = ranks[f"test_{mode or results['protocol']}"].astype(np.int64)
            place = self.places(ranks["users"])
            for name, members in groups.items():
                inside = members[place]
                parts = {
                    domain: summarise(mine[inside & (ranks["test_domains"] == number)], metrics)
                    for number, domain in enumerate(domains)
                }
                out[name].append({"overall": summarise(mine[inside], metrics), "domains": parts})
        return out

    def places(self, users: np.ndarray) -> np.ndarray:
        """Place of each user token in :meth:`histories`, int64 [n]."""
        return np.searchsorted(self.histories().users.astype(str), users.astype(str))


@dataclass
class Page:
    """What an experiment shows.

    Attributes
    ----------
    title : str
        Of the page.
    text : list of str
        Paragraphs above the tables, in Markdown.
    tables : list of Table
        Figures of ours, then the paper's.
    pictures : dict
        Name -> matplotlib figure.
    """

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: dict[str, Figure] = field(default_factory=dict)


def paper_table(experiment: str, dataset: str) -> Table | None:
    """Return what the paper prints for an experiment; None where it prints nothing."""
    path = properties_dir() / "experiment" / "paper.yaml"
    printed = yaml.safe_load(path.read_text(encoding="utf-8")).get(experiment, {}).get(dataset)
    if printed is None:
        return None
    table = Table(f"{experiment}, {dataset}: as printed in the paper", printed["columns"])
    for row, values in printed["rows"].items():
        table.cells[row] = {}
        for column, value in zip(printed["columns"], values, strict=True):
            table.add(row, column, [] if value is None else [value])
    table.ranked = False
    largest = max(table.mean(row, c) for row in table.cells for c in table.columns
                  if len(table.values(row, c)))  # fmt: skip
    table.digits = 6 if largest < 0.01 else 4
    table.notes.append("Other candidates, other split: compare the order, not the values.")
    return table


def write_page(page: Page, folder: Path, name: str) -> Path:
    """Write an experiment's figures, page and pictures.

    Parameters
    ----------
    page : Page
        What it shows.
    folder : Path
        Receives ``<name>.csv``, ``.md``, ``.tex`` and each picture as PNG and SVG; the page is
        written last.
    name : str
        Of the experiment.

    Returns
    -------
    Path
        The page.
    """
    from matplotlib import pyplot

    lines = [f"# {page.title}", "", *(f"{paragraph}\n" for paragraph in page.text)]
    for picture, figure in page.pictures.items():
        for suffix in ("png", "svg"):
            with atomic_write(folder / f"{picture}.{suffix}") as temporary:
                metadata = {"Date": None} if suffix == "svg" else None
                figure.savefig(temporary, format=suffix, dpi=160, metadata=metadata)
        pyplot.close(figure)
        lines += [f"![{picture}]({picture}.png)", ""]
    lines += [to_markdown(table) for table in page.tables]
    if page.tables:
        write_tables(folder, name, page.tables)
    path = folder / f"{name}.md"
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return path
