"""Experiments by name, and their pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_edt.augment.providers import import_providers
from recbole_edt.experiment.context import ExperimentContext, read_properties
from recbole_edt.experiment.layout import protocol_tables
from recbole_edt.experiment.page import Page
from recbole_edt.experiment.runs import Runs
from recbole_edt.experiment.tables import PAPER, Table

OURS = "LLM-EDT"  # row of the unchanged model


@dataclass(frozen=True)
class Experiment:
    """A table or figure."""

    name: str  # on the command line, and of its files
    title: str
    source: str = ""  # its place in the paper, such as "table 1"
    text: str = ""  # a paragraph above the tables, in Markdown
    runs: Callable[[ExperimentContext], Runs] = lambda context: {}  # none: no training
    ours: str | None = None  # the row whose lead is tested
    # (context, runs) -> page of the finished runs, instead of one table per protocol
    lay_out: Callable[[ExperimentContext, Runs], Page] | None = None

    def page(self, context: ExperimentContext, runs: Runs) -> Page:
        """Lay out the finished runs, and the paper's figures beside them."""
        if self.lay_out is not None:
            page = self.lay_out(context, runs)
        else:
            heading = f"{self.title}: {context.dataset}"
            page = Page(tables=protocol_tables(context.results(runs), heading, self.ours))
            for table in page.tables[:1]:
                page.add_points(self.name, {"": table}, table.best())
        page.title = self.title
        if self.text:
            page.text.insert(0, self.text)
        add_paper(page, self.name, context.dataset)
        return page


def add_paper(page: Page, experiment: str, dataset: str) -> None:
    """Put what the paper prints for an experiment beside the same columns, or into a table."""
    printed = paper_table(experiment, dataset)
    if printed is None or not page.tables:
        return
    alike = [table for table in page.tables if set(printed.columns) & set(table.columns)]
    if not alike:
        page.tables.append(printed)
        return
    # the paper ranks among 100 sampled candidates
    table = next((one for one in alike if one.title.endswith("uni100")), alike[0])
    for row, cells in printed.cells.items():
        for column, values in cells.items():
            table.add(row, f"{column}{PAPER}", values)
    table.columns = [*table.columns, *(f"{column}{PAPER}" for column in printed.columns)]
    table.notes += printed.notes


def paper_table(experiment: str, dataset: str) -> Table | None:
    """Figures that the paper prints for an experiment; None if it prints none."""
    printed = read_properties("paper").get(experiment, {}).get(dataset)
    if printed is None:
        return None
    title = f"{experiment}, {dataset}: as printed in the paper"
    note = "Paper: as printed. Other candidates, other split: compare the order, not the values."
    table = Table(title, printed["columns"], notes=[note], digits=None, ranked=False, printed=True)
    return table.add_rows(printed["rows"])


EXPERIMENTS: dict[str, Experiment] = {}
"""Registered experiments by name."""


def register_experiment(name: str, title: str, source: str = "", **parts: Any) -> None:
    """Register an experiment; the arguments are those of :class:`Experiment`.

    ``recbole-edt experiment package.module:name`` imports the user's module first.
    """
    EXPERIMENTS[name] = Experiment(name, title, source, **parts)


def load_experiments() -> dict[str, Experiment]:
    """Register the package's experiments; return all: the paper's in its order, then others."""
    import_providers("recbole_edt.experiment.paper", [str(Path(__file__).with_name("paper"))])

    def place(name: str) -> tuple[int, int]:
        found = re.match(r"(table|figure)s? (\d+)", EXPERIMENTS[name].source)
        return (("table", "figure").index(found[1]), int(found[2])) if found else (2, 0)

    return {name: EXPERIMENTS[name] for name in sorted(EXPERIMENTS, key=place)}
