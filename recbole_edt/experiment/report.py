"""``recbole-edt report``: all pages of a data set in one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
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
    """Write the report as the command line asks for it; EDTError if there is no page."""
    settings = validate(ResultsSettings, parse_arguments(arguments, ResultsSettings))
    print(f"written: {write_report(settings.folder, settings.dataset)}")


def write_report(folder: Path, dataset: str) -> Path:
    """Bind the pages of a data set in ``<output_path>/<dataset>`` into ``report.html`` there."""
    experiments = load_experiments()
    paths = [folder / "compare.md", *(folder / name / f"{name}.md" for name in experiments)]
    # then experiments of the user's own
    paths += [path for path in sorted(folder.glob("*/*.md")) if path.stem == path.parent.name]
    pages = [path for path in dict.fromkeys(paths) if path.is_file()]
    if not pages:
        raise DataError(
            f"there is nothing to report in {folder}: run compare or an experiment first"
        )
    numbers = {"Figure": count(1), "Table": count(1)}  # from page to page

    def number(caption: re.Match) -> str:
        return f"<figcaption>{caption[1]} {next(numbers[caption[1]])}"

    sections, made, note = [], [], ""
    for path in pages:
        text = path.read_text(encoding="utf-8")
        made += _MADE.findall(text)
        if text.startswith("> "):
            note = text.partition("\n")[0].removeprefix("> ")
        title = re.search(r"^# (.*)$", text, re.M)
        heading = title[1] if title else path.stem
        if path.stem in experiments and (source := experiments[path.stem].source):
            heading += f" ({source})"
        body = re.sub(r"<figcaption>(Figure|Table) \d+", number, to_html(path.parent, text))
        sections.append({"name": path.stem, "heading": heading, "body": body})
    columns = [list(dict.fromkeys(column)) for column in zip(*sorted(made), strict=True)]
    names = ("Made on", "RecBole-EDT", "Commands", "Seeds", "Machine")
    header = dict(zip(names, columns, strict=False))  # no columns if no page says how it was made
    environment = Environment(loader=PackageLoader("recbole_edt.experiment"), autoescape=True)
    text = environment.get_template("report.html.j2").render(
        dataset=dataset, sections=sections, note=note, header=header
    )
    path = folder / "report.html"
    write_text(path, text)
    return path


_MADE = re.compile(r"^Made on (\S+) by RecBole-EDT (\S+): `(.+)`\. Seeds (.+); (.+)\.$", re.M)


def to_html(folder: Path, text: str) -> str:
    """Turn a page into HTML without its title, note and last line; pictures become part of it."""

    def embed(found: re.Match) -> str:
        picture = folder / found[1]
        if not picture.is_file():
            raise DataError(f"picture {picture} is missing: run its experiment again")
        svg = picture.read_text(encoding="utf-8")
        return f"<figure>{svg}<figcaption>{found[2]}</figcaption></figure>"

    text = re.sub(r"^(# |> ).*", "", _MADE.sub("", text), flags=re.M)
    body = markdown.markdown(text, extensions=["tables"])
    body = re.sub(
        r"<h3>(.*?)</h3>\s*(<table>.*?</table>)",
        r'<figure class="table"><figcaption>\1</figcaption><div tabindex="0">\2</div></figure>',
        body,
        flags=re.DOTALL,
    )
    picture = r'<p><img [^>]*src="([^"]+\.svg)" /></p>\s*<p><em>(.*?)</em></p>'
    return re.sub(picture, embed, body)
