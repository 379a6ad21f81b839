"""Experiments by name, and their pages: text, tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.figure import Figure

from recbole_edt.augment.providers import import_providers
from recbole_edt.experiment import pictures
from recbole_edt.experiment.context import ExperimentContext, read_properties
from recbole_edt.experiment.layout import protocol_tables
from recbole_edt.experiment.runs import Runs
from recbole_edt.experiment.tables import Table, to_markdown, write_tables
from recbole_edt.io.files import atomic_write, write_text

OURS = "LLM-EDT"  # row of the unchanged model


@dataclass
class Page:
    """What an experiment shows: paragraphs in Markdown, tables, and pictures by name."""

    title: str = ""
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: dict[str, Figure] = field(default_factory=dict)

    def write(self, folder: Path, name: str, note: str = "") -> Path:
        """Write ``<name>.csv``, ``.tex``, pictures (PNG, SVG), and last the page, ``<name>.md``.

        ``note`` says on the first line that the data are simulated.
        """
        lines = [f"# {self.title}", "", *(f"{paragraph}\n" for paragraph in self.text)]
        if note:
            lines = [f"> {note}", "", *lines]
        for picture, figure in self.pictures.items():
            for suffix, metadata in (("png", None), ("svg", {"Date": None})):
                with atomic_write(folder / f"{picture}.{suffix}") as temporary:
                    figure.savefig(temporary, format=suffix, dpi=160, metadata=metadata)
            pyplot.close(figure)
            lines += [f"![{picture}]({picture}.png)", ""]
        if self.tables:
            write_tables(folder, name, self.tables, note)
        path = folder / f"{name}.md"
        write_text(path, "\n".join([*lines, *map(to_markdown, self.tables)]))
        return path


@dataclass(frozen=True)
class Experiment:
    """A table or figure."""

    name: str  # on the command line, and of its files
    title: str
    source: str = ""  # its place in the paper, such as "table 1"
    text: str = ""  # a paragraph above the tables, in Markdown
    runs: Callable[[ExperimentContext], Runs] = lambda context: {}  # none: no training
    ours: str | None = None  # the row whose lead is tested
    draw: Callable[[Table, Sequence[str]], Figure] = pictures.bars  # of the first table's columns
    # (context, runs) -> page of the finished runs, instead of one table per protocol
    lay_out: Callable[[ExperimentContext, Runs], Page] | None = None

    def page(self, context: ExperimentContext, runs: Runs) -> Page:
        """Lay out the finished runs, and the paper's figures after the first table."""
        if self.lay_out is not None:
            page = self.lay_out(context, runs)
        else:
            heading = f"{self.title}: {context.dataset}"
            page = Page(tables=protocol_tables(context.results(runs), heading, self.ours))
            for table in page.tables[:1]:
                page.pictures[self.name] = self.draw(table, main_columns(table))
        page.title = self.title
        if self.text:
            page.text.insert(0, self.text)
        printed = paper_table(self.name, context.dataset)
        if printed is not None:
            page.tables.insert(1, printed)
        return page


def main_columns(table: Table) -> list[str]:
    """Return the first metric's column of each domain, without the overall one."""
    metric = table.columns[0].split()[-1]
    return [c for c in table.columns if c.endswith(f" {metric}") and not c.startswith("overall ")]


def paper_table(experiment: str, dataset: str) -> Table | None:
    """Figures that the paper prints for an experiment; None if it prints none."""
    printed = read_properties("paper").get(experiment, {}).get(dataset)
    if printed is None:
        return None
    title = f"{experiment}, {dataset}: as printed in the paper"
    table = Table(title, printed["columns"], ranked=False).add_rows(printed["rows"])
    table.digits = 6 if table.means().max(axis=None) < 0.01 else 4
    table.notes.append("Other candidates, other split: compare the order, not the values.")
    return table


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
