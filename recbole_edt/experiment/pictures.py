"""Pictures of experiments: points with deviations, bars, maps of items, and one user's sequence.

They are SVG of the width of a phone, with text as text, and follow the reader's light or dark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # pictures are files; no screen is needed

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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

plt.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "axes.prop_cycle": plt.cycler(color=_SERIES),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 11,
        "figure.constrained_layout.use": True,
        "font.size": 10.5,
        "grid.color": LINE,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "recbole_edt",
        "text.color": INK,
        "xtick.color": SOFT,
        "xtick.labelcolor": INK,
        "ytick.color": SOFT,
        "ytick.labelcolor": INK,
    }
)


def to_svg(figure: Figure, alt: str) -> str:
    """Return a figure as an SVG element that says ``alt`` to readers who cannot see it."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<metadata>.*?</metadata>|(?<=<g) id="[^"]*"', "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = re.sub(r"<style.*?</style>", f"<style>{_STYLE}</style>", text, flags=re.DOTALL)
    # the page gives the size
    text = re.sub(r'(?<=<svg )([^>]*?)(?:width|height)="[\d.]+pt" ?', r"\1", text, count=1)
    return re.sub(r"(?<=<svg )", f'role="img" aria-label="{escape(alt)}" ', text, count=1)


def points(tables: Mapping[str, Table], columns: Sequence[Sequence[str]]) -> Figure:
    """Draw means of rows as points and their deviations as bars: a panel for each column.

    Parameters
    ----------
    tables : mapping
        Legend -> table; all have the same rows.
    columns : sequence of sequence of str
        The panels, one list for each line of them.
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
                    means[chosen], places[chosen], xerr=deviations[chosen], fmt="o", ms=4.5, lw=1.5,
                    color=_SERIES[number], mfc=face, label=None if face == "none" else label,
                )  # fmt: skip
        axis.set_title(column)
        axis.set_yticks(range(len(rows)), rows)
        axis.tick_params(axis="y", length=0)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.grid(lw=0.6)
        axis.margins(x=0.08)
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    if len(tables) > 1:
        _legend(figure, axes[0, 0])
    return figure


def shares(shares: Mapping[str, Mapping[str, float]], xlabel: str, ylabel: str) -> Figure:
    """Draw shares (legend -> range -> 0 to 1) as bars, one colour per legend (figure 1)."""
    percents = 100 * pd.DataFrame(shares)
    size = (_WIDTH, 0.9 + 0.2 * percents.size)
    axis = percents.plot.barh(width=0.8, xlabel=xlabel, ylabel=ylabel, figsize=size, legend=False)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", lw=0.6)
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.0f%%", padding=3, fontsize=9)
    _legend(axis.figure, axis)
    return axis.figure


def item_map(
    kinds: Mapping[str, np.ndarray], inserted: Mapping[str, np.ndarray], titles: Sequence[str]
) -> Figure:
    """Draw where items lie, before and after augmentation (figure 3).

    Both panels have the densities of each domain's items; the second has as points those that were
    inserted into sequences, too.

    Parameters
    ----------
    kinds, inserted : mapping
        Domain -> places, float [n, 2].
    titles : sequence of str
        Of the two panels.
    """
    every = np.concatenate(list(kinds.values()))
    low, high = every.min(axis=0), every.max(axis=0)
    pad = 0.08 * (high - low) + 1e-9
    edges: Any = [np.linspace(a, b, 61) for a, b in zip(low - pad, high + pad, strict=True)]
    middles = [(of[1:] + of[:-1]) / 2 for of in edges]
    figure, axes = plt.subplots(1, 2, figsize=(_WIDTH, 3.0), sharex=True, sharey=True)
    for panel, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for colour, (name, places) in zip(COLOURS, kinds.items(), strict=False):
            density = gaussian_filter(np.histogram2d(places[:, 0], places[:, 1], edges)[0], 1.8).T
            for level in (0.15, 0.45, 0.75):  # of its peak
                axis.contourf(
                    *middles, density, [level * density.max(), np.inf], colors=[colour], alpha=0.16
                )
            axis.scatter([], [], color=colour, alpha=0.5, lw=0, s=40, marker="s", label=name)
            if panel and len(inserted[name]):
                axis.scatter(
                    *inserted[name].T, s=7, lw=0.5, color=colour, edgecolor=INK,
                    label=f"{name}, inserted",
                )  # fmt: skip
        axis.set(title=title, xticks=[], yticks=[])
    _legend(figure, axes[1])
    return figure


class Step(NamedTuple):
    """A row of a history, or a recommended item."""

    title: str
    domain: int
    inserted: bool = False
    chosen: bool = False  # by the user, next
    reason: str = ""  # the row that carries most of its score


def sequence(
    steps: Sequence[Step],
    target: Step,
    ranks: tuple[int, int],
    best: Mapping[str, Sequence[Step]],
    domains: Sequence[str],
) -> Figure:
    """Draw one user's history before and after augmentation, and what followed (figure 6).

    Parameters
    ----------
    steps : sequence of Step
        The history with its inserted rows, oldest first.
    target : Step
        What the user chose next.
    ranks : tuple of int
        Its places without and with augmentation.
    best : mapping
        Heading -> the best recommendations.
    domains : sequence of str
        Their names.
    """
    lines = len(steps) + 3 + sum(2.1 + sum(1 + bool(s.reason) for s in of) for of in best.values())
    figure = plt.figure(figsize=(_WIDTH, 0.235 * (lines + 2)), layout="none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 100), ylim=(lines + 1, -1))
    axis.axis("off")
    rails = (6, 18)

    def write(x: float, y: float, text: str, width: int = 43, **style) -> None:
        short = text if len(text) <= width else f"{text[: width - 1].rstrip()}…"
        axis.text(x, y, short.replace("$", r"\$"), va="center", **style)  # no formula

    def mark(x: float, y: float, step: Step, shape: str = "o") -> None:
        face = "none" if step.inserted else COLOURS[step.domain]
        size = 110 if shape == "*" else 46
        axis.scatter(
            x, y, s=size, marker=shape, facecolor=face, edgecolor=COLOURS[step.domain], lw=1.6,
            zorder=2,
        )  # fmt: skip

    for x, heading in zip(rails, ("before", "after"), strict=True):
        write(x, 0, heading, ha="center", color=SOFT, fontsize=9.5)
    y: float = 1
    for y, step in enumerate(steps, start=1):
        for x in rails[step.inserted :]:
            mark(x, y, step)
        write(24, y, step.title, style="italic" if step.inserted else "normal")
    y += 1
    for x, rank in zip(rails, ranks, strict=True):
        ends = [n for n, step in enumerate(steps, 1) if x == rails[1] or not step.inserted]
        axis.plot([x, x], [min(ends, default=y), y], color=SOFT, lw=1, zorder=1)
        mark(x, y, target, "*")
        write(x, y + 1, f"{rank:,}", ha="center", weight="bold")
    write(24, y, f"next: {target.title}", weight="bold", width=38)
    write(24, y + 1, "its place among the candidates", color=SOFT)
    y += 2
    for heading, found in best.items():
        y += 1.1
        write(2, y, heading, weight="bold", width=48)
        for place, step in enumerate(found, start=1):
            y += 1
            mark(12, y, step, "*" if step.chosen else "o")
            write(5, y, f"{place}.", color=SOFT)
            write(18, y, step.title, width=47)
            if step.reason:
                y += 1
                write(18, y - 0.1, f"← {step.reason}", width=52, color=SOFT, fontsize=9.5)
    for colour, name in zip(COLOURS, domains, strict=False):
        axis.scatter([], [], s=46, color=colour, label=name)
    axis.scatter([], [], s=46, facecolor="none", edgecolor=SOFT, lw=1.6, label="inserted")
    axis.scatter([], [], s=110, marker="*", color=SOFT, label="chosen next")
    axis.legend(
        loc="lower center", ncols=4, handletextpad=0.1, columnspacing=1.2, fontsize=10,
        bbox_to_anchor=(0.5, 0),
    )  # fmt: skip
    return figure


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4),
                  handletextpad=0.4, columnspacing=1.2)  # fmt: skip
