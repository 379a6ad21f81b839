"""Pages of results: text, figures and tables with numbered captions, and how they were made."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from html import escape
from pathlib import Path

import recbole_edt
from recbole_edt.experiment.tables import Table, escape_markdown, to_markdown, write_tables
from recbole_edt.io.files import write_text
from recbole_edt.settings import shell


@dataclass
class Picture:
    """An SVG element, its caption, and what it shows for readers who cannot see it."""

    svg: str
    caption: str
    alt: str


@dataclass
class Page:
    """What an experiment shows: paragraphs in Markdown, pictures by name, and tables."""

    title: str = ""
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: dict[str, Picture] = field(default_factory=dict)

    def write(self, folder: Path, name: str, note: str = "", made: str = "") -> Path:
        """Write ``<name>.csv``, ``.tex``, pictures (SVG), and last the page, ``<name>.md``.

        Parameters
        ----------
        note : str
            That the data are simulated: the first line of the page, and titles of what was measured
            say so.
        made : str
            How the page was made, its last line (:func:`made_by`).
        """
        tables = [
            replace(table, title=f"{table.title} (simulated data)")
            if note and not table.printed
            else table
            for table in self.tables
        ]
        lines = [f"> {note}\n"] if note else []
        lines += [f"# {self.title}\n", *(f"{paragraph}\n" for paragraph in self.text)]
        for number, (picture, one) in enumerate(self.pictures.items(), start=1):
            told = f'<svg role="img" aria-label="{escape(one.alt)}" '
            write_text(folder / f"{picture}.svg", one.svg.replace("<svg ", told, 1))
            lines.append(f"![{escape_markdown(one.alt)}]({picture}.svg)\n")
            lines.append(f"*Figure {number}: {one.caption}*\n")
        if tables:
            write_tables(folder, name, tables)
        lines += [to_markdown(table, number) for number, table in enumerate(tables, start=1)]
        path = folder / f"{name}.md"
        write_text(path, "\n".join([*lines, *([made, ""] if made else [])]))
        return path

    def add_points(self, name: str, tables: Mapping[str, Table], told: str) -> None:
        """Draw the first two metrics of each domain; ``told`` says what is to be seen.

        ``tables`` are of the same rows, under the words of the legend.
        """
        from recbole_edt.experiment.pictures import points

        table = next(iter(tables.values()))
        columns = [table.columns_of(part) for part in table.parts()]
        several = table.deviations().notna().any(axis=None)
        spread = ", bars: ± one sample standard deviation over seeds" if several else ", one seed"
        few = "; open: fewer than ten users" if any(t.few for t in tables.values()) else ""
        caption = f"{table.title}. Points: means{spread}{few}. The axes do not begin at zero."
        alt = f"Points with bars, one panel per metric and domain. {told}"
        self.pictures[name] = Picture(points(tables, columns), caption, alt)
        self.text.append(escape_markdown(told))


def made_by(command: str, arguments: Sequence[str], seeds: Sequence[int]) -> str:
    """Say when, by which version, command and seeds, and on which machine a page was made."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name(0)}"
    told = shell("recbole-edt", command, *arguments)
    return (
        f"Made on {date.today()} by RecBole-EDT {recbole_edt.__version__}: `{told}`. "
        f"Seeds {', '.join(map(str, seeds))}; {machine}."
    )
