"""Experiments by name: an experiment is one file that registers itself."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from recbole_edt.experiment import pictures
from recbole_edt.experiment.context import ExperimentContext
from recbole_edt.experiment.layout import Results, protocol_tables
from recbole_edt.experiment.pages import Page, grid
from recbole_edt.experiment.runs import Runs
from recbole_edt.experiment.tables import Table

__all__ = ["OURS", "ExperimentContext", "Page", "Runs", "Table", "grid", "main_columns", "pictures",
           "register_experiment", "results_page"]  # fmt: skip

OURS = "LLM-EDT"
"""The row of the model as it is."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Attributes
    ----------
    name : str
        On the command line, and of its files.
    title : str
        What it shows.
    source : str
        Where the paper has it, such as ``table 1``; empty if nowhere.
    text : str
        A paragraph above the tables, in Markdown.
    runs : callable
        (context) -> row -> runs; none for what needs no training.
    lay_out : callable, optional
        (context, runs) -> page of those runs that are done; by default :func:`results_page`.
    draw : callable
        (table, columns) -> picture of the first table, if there is no ``lay_out``.
    """

    name: str
    title: str
    source: str = ""
    text: str = ""
    runs: Callable[[ExperimentContext], Runs] = lambda context: {}
    lay_out: Callable[[ExperimentContext, Runs], Page] | None = None
    draw: Callable[[Table, Sequence[str]], Figure] = pictures.bars

    def page(self, context: ExperimentContext, runs: Runs) -> Page:
        """Lay out those runs that are done, and what the paper prints."""
        if self.lay_out is not None:
            page = self.lay_out(context, runs)
        else:
            heading = f"{self.title}: {context.dataset}"
            page = results_page(self.name, heading, context.results(runs), draw=self.draw)
        page.title = self.title
        if self.text:
            page.text.insert(0, self.text)
        page.add_paper(self.name, context.dataset)
        return page


def results_page(
    name: str, heading: str, results: Results, ours: str | None = None, draw=pictures.bars
) -> Page:
    """Lay out results files: one table per protocol, and a picture ``name`` of the first.

    Titles of tables begin with the heading; the lead of the row ``ours`` is tested.
    """
    page = Page(tables=protocol_tables(results, heading, ours))
    for table in page.tables[:1]:
        page.pictures[name] = draw(table, main_columns(table))
    return page


def main_columns(table: Table) -> list[str]:
    """Return the first metric's column of each domain, without the overall one."""
    metric = table.columns[0].split()[-1]
    return [c for c in table.columns if c.endswith(f" {metric}") and not c.startswith("overall ")]


EXPERIMENTS: dict[str, Experiment] = {}
"""Registered experiments by name."""


def register_experiment(name: str, title: str, source: str = "", **parts) -> None:
    """Register an experiment; the arguments are those of :class:`Experiment`.

    ``recbole-edt experiment package.module:name`` imports the module of a user's own first.
    """
    EXPERIMENTS[name] = Experiment(name, title, source, **parts)


def load_experiments() -> dict[str, Experiment]:
    """Register the package's experiments; return all: the paper's in its order, then others."""
    paper = importlib.import_module("recbole_edt.experiment.paper")
    for module in pkgutil.iter_modules(paper.__path__):
        importlib.import_module(f"{paper.__name__}.{module.name}")
    return dict(sorted(EXPERIMENTS.items(), key=lambda item: _place(item[1].source)))


def _place(source: str) -> tuple[int, int]:
    """Tables before figures before what the paper does not have."""
    found = re.match(r"(table|figure)s? (\d+)", source)
    return (("table", "figure").index(found[1]), int(found[2])) if found else (2, 0)
