"""Pages of experiments: text, tables and pictures, written as Markdown, CSV, LaTeX, PNG, SVG."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbole_edt.experiment.tables import Table, to_markdown, write_tables
from recbole_edt.io.files import atomic_write
from recbole_edt.io.paths import properties_dir

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        Measured figures, and the paper's.
    pictures : dict
        Name -> matplotlib figure.
    """

    title: str = ""
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: dict[str, Figure] = field(default_factory=dict)

    def add_paper(self, experiment: str, dataset: str) -> None:
        """Add what the paper prints, if it prints something, behind the first table."""
        printed = paper_table(experiment, dataset)
        if printed is not None:
            self.tables.insert(1, printed)


@cache
def read_properties(name: str) -> dict[str, Any]:
    """Read ``properties/experiment/<name>.yaml``."""
    path = properties_dir() / "experiment" / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def grid(name: str) -> Any:
    """What experiments vary, by name (``properties/experiment/grids.yaml``)."""
    return read_properties("grids")[name]


def paper_table(experiment: str, dataset: str) -> Table | None:
    """Figures that the paper prints for an experiment; None if it prints none."""
    printed = read_properties("paper").get(experiment, {}).get(dataset)
    if printed is None:
        return None
    title = f"{experiment}, {dataset}: as printed in the paper"
    table = Table(title, printed["columns"], ranked=False)
    for row, values in printed["rows"].items():
        table.add_row(row, values)
    largest = max(v for values in printed["rows"].values() for v in values if v is not None)
    table.digits = 6 if largest < 0.01 else 4
    table.notes.append("Other candidates, other split: compare the order, not the values.")
    return table


def write_page(page: Page, folder: Path, name: str) -> Path:
    """Write ``<name>.csv``, ``.tex``, pictures as PNG and SVG, and last the page, ``<name>.md``.

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
