"""Pictures of experiments: points with deviations, bars, maps of items, and one user's sequence.

They are SVG of the width of a phone, with text as text, and follow the reader's light or dark.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # pictures are files; no screen is needed

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter

from recbole_edt.experiment.tables import Table

# most colour-blind readers can tell them apart; the first two are the domains'
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1")
INK, SOFT, LINE = "#1f2933", "#64707d", "#d5dbe1"
_SERIES = (COLOURS[2], COLOURS[3], SOFT)  # of what is no domain
DARK = {
    COLOURS[0]: "#63b3ed", COLOURS[1]: "#f6ad55", COLOURS[2]: "#68d391", COLOURS[3]: "#b794f4",
    INK: "#e6edf3", SOFT: "#9aa7b4", LINE: "#3a444f",
}  # fmt: skip
"""Colour -> what it is on a dark page."""

_WIDTH = 5.0  # inches of 72 units: a phone shows a unit as about a pixel
_DARK_RULES = "".join(
    f'[style*="{role}: {light}"]{{{role}:{dark}!important}}'
    for light, dark in DARK.items()
    for role in ("fill", "stroke")
)
_STYLE = (
    "*{stroke-linejoin:round;stroke-linecap:butt}"
    f"@media(prefers-color-scheme:dark){{{_DARK_RULES}}}"
)

plt.style.use(Path(__file__).with_name("pictures.mplstyle"))


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG element."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r'(?<=<g) id="[^"]*"', "", text)  # which other pictures of a page have, too
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = re.sub(r"<style.*?</style>", f"<style>{_STYLE}</style>", text, flags=re.DOTALL)
    # the page gives the size
    return re.sub(r' width="\S*pt" height="\S*pt"', "", text, count=1)


def points(tables: Mapping[str, Table], columns: Sequence[Sequence[str]]) -> str:
    """Draw means of rows as points and their deviations as bars: a panel for each column.

    ``tables`` are of the same rows, by the words of the legend; ``columns`` has a list for each
    line of panels.
    """
    rows = next(iter(tables.values())).means().dropna(how="all").index
    height = 0.22 * max(len(rows), 2) * (1 + 0.35 * (len(tables) - 1)) + 0.6
    figure, axes = plt.subplots(
        len(columns), max(map(len, columns)), sharey=True, squeeze=False,
        figsize=(_WIDTH, height * len(columns) + 0.3 * (len(tables) > 1)),
    )  # fmt: skip
    for axis, column in zip(axes.flat, (c for line in columns for c in line), strict=False):
        for number, (label, table) in enumerate(tables.items()):
            means = table.means()[column].reindex(rows)
            deviations = table.deviations()[column].reindex(rows).fillna(0)
            places = np.arange(len(rows)) + 0.22 * (number - (len(tables) - 1) / 2)
            few = np.array([(row, column) in table.few for row in rows])
            for chosen, face in ((~few, _SERIES[number]), (few, "none")):
                axis.errorbar(
                    means[chosen], places[chosen], xerr=deviations[chosen], fmt="o",
                    color=_SERIES[number], mfc=face, label=None if face == "none" else label,
                )  # fmt: skip
        axis.set_title(textwrap.fill(column, 22))
        axis.set_yticks(range(len(rows)), rows)
        axis.grid()
        axis.margins(x=0.08)
        low, high = axis.get_xlim()  # the nearer the points, the longer are the numbers at the axis
        axis.xaxis.set_major_locator(MaxNLocator(3 if high - low > 0.3 * high else 1))
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    if len(tables) > 1:
        _legend(figure, axes[0, 0])
    return to_svg(figure)


def shares(shares: Mapping[str, Mapping[str, float]], xlabel: str, ylabel: str) -> str:
    """Draw shares (legend -> range -> 0 to 1) as bars, one colour per legend (figure 1)."""
    percents = 100 * pd.DataFrame(shares)
    size = (_WIDTH, 0.9 + 0.2 * percents.size)
    axis = percents.plot.barh(width=0.8, xlabel=xlabel, ylabel=ylabel, figsize=size, legend=False)
    axis.invert_yaxis()
    axis.grid(axis="x")
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.0f%%", padding=3, fontsize=9)
    _legend(axis.figure, axis)
    return to_svg(axis.figure)


def item_map(kinds: Mapping[str, np.ndarray], inserted: Mapping[str, np.ndarray]) -> str:
    """Draw where items lie, before and after augmentation (figure 3).

    Both panels have the densities of each domain's items; the second has as points those that were
    inserted into sequences, too. Places are float [n, 2], by domain.
    """
    every = np.concatenate(list(kinds.values()))
    low, high = every.min(axis=0), every.max(axis=0)
    pad = 0.08 * (high - low) + 1e-9
    edges: Any = [np.linspace(a, b, 61) for a, b in zip(low - pad, high + pad, strict=True)]
    middles = [(of[1:] + of[:-1]) / 2 for of in edges]
    figure, axes = plt.subplots(1, 2, figsize=(_WIDTH, 3.0), sharex=True, sharey=True)
    for axis, title in zip(axes, ("before", "after"), strict=True):
        for colour, (name, places) in zip(COLOURS, kinds.items(), strict=False):
            density = gaussian_filter(np.histogram2d(places[:, 0], places[:, 1], edges)[0], 1.8).T
            for level in (0.15, 0.45, 0.75):  # of its peak
                axis.contourf(
                    *middles, density, [level * density.max(), np.inf], colors=[colour], alpha=0.16
                )
            axis.scatter([], [], color=colour, alpha=0.5, lw=0, s=40, marker="s", label=name)
            if title == "after" and len(inserted[name]):
                label = f"{name}, inserted"
                axis.scatter(*inserted[name].T, s=9, lw=0, color=colour, label=label)
        axis.set(title=title, xticks=[], yticks=[])
    _legend(figure, axes[1])
    return to_svg(figure)


class Step(NamedTuple):
    """A row of a history, or a recommended item."""

    title: str
    domain: int
    inserted: bool = False
    chosen: bool = False  # by the user, next
    reason: str = ""  # the row that carries most of its score


def sequence(
    steps: Sequence[Step],
    ranks: tuple[int, int],
    best: Mapping[str, Sequence[Step]],
    domains: Sequence[str],
) -> str:
    """Draw one user's history before and after augmentation, and what followed (figure 6).

    ``steps`` are the history with its inserted rows, oldest first, and last what the user chose
    next; ``ranks`` those of the last without and with augmentation; ``best`` has recommendations
    by heading.
    """
    environment = Environment(
        loader=PackageLoader("recbole_edt.experiment"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("sequence.svg.j2").render(
        steps=steps, ranks=ranks, best=best, domains=domains, style=Markup(_STYLE),
        colours=COLOURS, ink=INK, soft=SOFT,
    ).strip()  # fmt: skip


def _legend(figure: Figure, axis: Axes) -> None:
    """Put a legend below a figure, in as many columns as have room."""
    handles, labels = axis.get_legend_handles_labels()

    def width(ncols: int) -> float:
        columns = np.array_split(labels, ncols)
        return sum(30 + 5.8 * max(map(len, column)) for column in columns)

    ncols = next((n for n in (len(labels), 2) if width(n) < 72 * _WIDTH), 1)
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols)
