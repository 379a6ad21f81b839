"""``recbole-edt report``: all pages of a data set in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

import markdown

from recbole_edt.errors import ConfigError, DataError
from recbole_edt.experiment.experiments import EXPERIMENTS
from recbole_edt.io.files import atomic_write
from recbole_edt.settings import nearest, parse_arguments

HELP = """\
usage: recbole-edt report --dataset=D [--output_path=results]

Bind everything that `compare` and `experiment` wrote for a data set into one self-contained page,
results/D/report.html: figures, tables and pictures, readable on a phone, without a network.
"""

_STYLE = """
:root { color-scheme: light dark; --line: #cbd5e0; --soft: #f7fafc; --link: #2b6cb0; }
@media (prefers-color-scheme: dark) {
  :root { --line: #4a5568; --soft: #1a202c; --link: #90cdf4; }
  img { background: white; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem; }
h1 { line-height: 1.2; } h2 { border-top: 1px solid var(--line); padding-top: 1.5rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
a { color: var(--link); } nav ul { columns: 16rem; padding-left: 1.2rem; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; }
th, td { padding: .25rem .6rem; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:nth-child(even) td { background: var(--soft); }
td:first-child, th:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
"""


def report(arguments: Sequence[str]) -> None:
    """Write the report as the command line asks for it.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    given = parse_arguments(arguments)
    name, output = given.pop("dataset", None), given.pop("output_path", "results")
    if not isinstance(name, str):
        raise ConfigError("--dataset is missing")
    if given:
        key = next(iter(given))
        raise ConfigError(f"unknown key '{key}'{nearest(key, ['dataset', 'output_path'])}")
    print(f"written: {write_report(Path(str(output)) / name, name)}")


def write_report(folder: Path, dataset: str) -> Path:
    """Bind the pages of a data set into ``report.html``.

    Parameters
    ----------
    folder : Path
        ``<output_path>/<dataset>``.
    dataset : str
        Its name.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        If there is no page yet.
    """
    parts = {name: folder / name / f"{name}.md" for name in EXPERIMENTS}
    parts = {"compare": folder / "compare.md", **parts}
    found = {name: path for name, path in parts.items() if path.is_file()}
    if not found:
        raise DataError(f"there is nothing to report in {folder}: run an experiment first")
    sections = {name: section(name, path) for name, path in found.items()}
    path = folder / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(document(dataset, sections), encoding="utf-8")
    return path


def heading(name: str) -> str:
    """Name a section, and where the paper has it."""
    if name not in EXPERIMENTS:
        return "Comparison"
    return f"{EXPERIMENTS[name].title} ({EXPERIMENTS[name].source})"


def section(name: str, path: Path) -> str:
    """Turn a page into HTML; its pictures become part of it."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("# ")]
    body = markdown.markdown("\n".join(lines), extensions=["tables"])
    body = body.replace("<table>", '<div class="table"><table>').replace(
        "</table>", "</table></div>"
    )
    body = re.sub(r'src="([^"]+)"', lambda match: f'src="{embedded(path.parent / match[1])}"', body)
    return f'<section id="{name}"><h2>{html.escape(heading(name))}</h2>\n{body}\n</section>'


def embedded(picture: Path) -> str:
    """Return a picture as a data address.

    Raises
    ------
    DataError
        If it is missing.
    """
    if not picture.is_file():
        raise DataError(f"picture {picture} is missing: make its experiment again")
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def document(dataset: str, sections: dict[str, str]) -> str:
    """Return the whole page."""
    title = f"RecBole-EDT: {html.escape(dataset)}"
    entries = "\n".join(
        f'<li><a href="#{name}">{html.escape(heading(name))}</a></li>' for name in sections
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            "<p>All figures were measured on this data set under the leak-free protocol: "
            "leave-one-out on raw rows, candidates of the target's own domain, ties never count "
            "as wins. The paper's figures, where shown, were made with other candidates and "
            "another split.</p>",
            f"<nav><ul>\n{entries}\n</ul></nav>",
            *sections.values(),
            "</body></html>",
            "",
        ]
    )
