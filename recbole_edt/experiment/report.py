"""``recbole-edt report``: all pages of a data set in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path

import markdown
from jinja2 import Environment, PackageLoader

from recbole_edt.errors import DataError
from recbole_edt.experiment.base import load_experiments
from recbole_edt.experiment.context import ResultsSettings
from recbole_edt.io.files import write_text
from recbole_edt.settings import help_text, parse_arguments, validate

HELP = help_text(
    "recbole-edt report --dataset=DATASET [--output_path=results]",
    "Bind everything that `compare` and `experiment` wrote for a data set into one self-contained "
    "page, results/DATASET/report.html: figures, tables and pictures, readable on a phone, without "
    "a network.",
    ResultsSettings,
)


def report(arguments: Sequence[str]) -> None:
    """Write the report as the command line asks for it.

    Raises
    ------
    EDTError
        If arguments are invalid or there is no page.
    """
    settings = validate(ResultsSettings, parse_arguments(arguments))
    print(f"written: {write_report(settings.folder, settings.dataset)}")


def write_report(folder: Path, dataset: str) -> Path:
    """Bind the pages of a data set in ``<output_path>/<dataset>`` into ``report.html`` there.

    Raises
    ------
    DataError
        If there is no page, or a picture is missing.
    """
    pages = {"compare": ("Comparison", folder / "compare.md")}
    for name, one in load_experiments().items():
        source = f" ({one.source})" if one.source else ""
        pages[name] = (one.title + source, folder / name / f"{name}.md")
    found = {name: path for name, (_, path) in pages.items() if path.is_file()}
    if not found:
        raise DataError(f"there is nothing to report in {folder}: run an experiment first")
    sections = [
        {"name": name, "heading": pages[name][0], "body": to_html(path)}
        for name, path in found.items()
    ]
    first = [path.read_text(encoding="utf-8").partition("\n")[0] for path in found.values()]
    note = next((line.removeprefix("> ") for line in first if line.startswith("> ")), "")
    environment = Environment(loader=PackageLoader("recbole_edt.experiment"), autoescape=True)
    text = environment.get_template("report.html.j2").render(
        dataset=dataset, sections=sections, note=note
    )
    path = folder / "report.html"
    write_text(path, text)
    return path


def to_html(path: Path) -> str:
    """Turn a page into HTML without its title and first note; its pictures become part of it."""

    def embed(found: re.Match) -> str:
        picture = path.parent / found[1]
        if not picture.is_file():
            raise DataError(f"picture {picture} is missing: run its experiment again")
        return f'src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"'

    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith(("# ", "> ")))
    body = markdown.markdown(text, extensions=["tables"])
    body = re.sub(r"<table>.*?</table>", r'<div class="table">\g<0></div>', body, flags=re.DOTALL)
    return re.sub(r'src="([^"]+)"', embed, body)
