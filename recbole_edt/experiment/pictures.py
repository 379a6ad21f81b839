"""Pictures of experiments: bars, lines, histograms, maps of items, and one user's sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")  # pictures are files; no screen is needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from recbole_edt.experiment.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#718096")
"""Told apart by most colour-blind readers; the first two are the domains'."""

plt.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "svg.hashsalt": "recbole_edt",
        "figure.constrained_layout.use": True,
    }
)


def bars(table: Table, columns: Sequence[str], ylabel: str) -> Figure:
    """Draw one panel per column and one bar per row, with deviations.

    Parameters
    ----------
    table : Table
        What is shown; rows without a value are left out.
    columns : sequence of str
        The panels.
    ylabel : str
        What the bars measure.
    """
    rows = [row for row in table.cells if any(len(table.values(row, c)) for c in columns)]
    height = 1.2 + 0.32 * max(len(rows), 3)
    figure, axes = plt.subplots(
        1, len(columns), figsize=(4.2 * len(columns), height), sharey=True, squeeze=False
    )
    places = np.arange(len(rows))[::-1]
    for number, (axis, column) in enumerate(zip(axes[0], columns, strict=True)):
        means = np.array([table.mean(row, column) for row in rows])
        deviations = np.nan_to_num([table.deviation(row, column) for row in rows])
        axis.barh(
            places, np.nan_to_num(means), xerr=deviations if deviations.any() else None,
            color=COLOURS[number % 2], height=0.66, error_kw={"lw": 1, "capsize": 2},
        )  # fmt: skip
        _trim(axis, means, deviations)
        axis.set_yticks(places, rows)
        axis.set_xlabel(f"{column} ({ylabel})" if ylabel else column)
        axis.grid(axis="x", lw=0.4)
    return figure


_LEAST_SPAN = 0.02
"""Part of the largest value that an axis spans at least: smaller differences look like none."""


def _trim(axis, means: np.ndarray, deviations: np.ndarray) -> None:
    """Let the axis begin near the smallest value where all are close together."""
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.ticklabel_format(axis="x", useOffset=False)
    known = means[~np.isnan(means)]
    if not len(known):
        return
    low, high = (known - deviations[~np.isnan(means)]).min(), (known + deviations.max()).max()
    low = min(low, (1 - _LEAST_SPAN) * high)
    start = 0.0 if low < 0.7 * high else low - 0.6 * (high - low)
    axis.set_xlim(max(start, 0.0), high + 0.06 * (high - max(start, 0.0)) + 1e-9)


def grouped_bars(tables: Mapping[str, Table], column: str, ylabel: str) -> Figure:
    """Draw groups of bars: one group per row, one bar per table.

    Parameters
    ----------
    tables : mapping
        Legend -> table; all have the same rows.
    column : str
        What is shown.
    ylabel : str
        Its name.
    """
    rows = list(next(iter(tables.values())).cells)
    figure, axis = plt.subplots(figsize=(1.6 + 1.25 * len(rows), 3.4))
    width = 0.8 / len(tables)
    for number, (label, table) in enumerate(tables.items()):
        places = np.arange(len(rows)) + (number - (len(tables) - 1) / 2) * width
        deviations = np.nan_to_num([table.deviation(row, column) for row in rows])
        axis.bar(
            places, np.nan_to_num([table.mean(row, column) for row in rows]), width * 0.94,
            yerr=deviations if deviations.any() else None, label=label,
            color=COLOURS[number % len(COLOURS)], error_kw={"lw": 1, "capsize": 2},
        )  # fmt: skip
    axis.set_xticks(np.arange(len(rows)), rows)
    axis.set_ylabel(ylabel)
    axis.grid(axis="y", lw=0.4)
    figure.legend(loc="outside upper center", ncols=min(len(tables), 4), frameon=False)
    return figure


def lines(table: Table, columns: Sequence[str], xlabel: str, values: Sequence[float]) -> Figure:
    """Draw one panel per column over a parameter, with deviations; its values evenly spaced.

    Parameters
    ----------
    table : Table
        One row per value of the parameter.
    columns : sequence of str
        The panels.
    xlabel : str
        The parameter.
    values : sequence of float
        Its values, in the order of the rows.
    """
    figure, axes = plt.subplots(1, len(columns), figsize=(4.2 * len(columns), 3.2), squeeze=False)
    places = np.arange(len(values))
    for number, (axis, column) in enumerate(zip(axes[0], columns, strict=True)):
        means = [table.mean(row, column) for row in table.cells]
        deviations = np.nan_to_num([table.deviation(row, column) for row in table.cells])
        axis.errorbar(
            places, means, yerr=deviations if deviations.any() else None, marker="o", capsize=3,
            color=COLOURS[number % 2],
        )  # fmt: skip
        axis.set_xticks(places, [f"{value:g}" for value in values])
        axis.set_xlabel(xlabel)
        axis.set_ylabel(column)
        axis.grid(lw=0.4)
    return figure


def histogram(shares: Mapping[str, Mapping[str, float]], xlabel: str, ylabel: str) -> Figure:
    """Draw shares by range, one colour per moment (figure 1).

    Parameters
    ----------
    shares : mapping
        Legend -> range -> share of users (0 to 1).
    xlabel, ylabel : str
        Of the axes.
    """
    figure, axis = plt.subplots(figsize=(8.2, 3.4))
    ranges = list(next(iter(shares.values())))
    width = 0.8 / len(shares)
    for number, (label, values) in enumerate(shares.items()):
        places = np.arange(len(ranges)) + (number - (len(shares) - 1) / 2) * width
        axis.bar(
            places, [100 * values[r] for r in ranges], width, label=label, color=COLOURS[number]
        )
    axis.set_xticks(np.arange(len(ranges)), ranges, rotation=30, ha="right")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(axis="y", lw=0.4)
    axis.legend(frameon=False)
    return figure


def item_map(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw items as points, one panel per moment, one colour per kind (figure 3).

    Parameters
    ----------
    panels : mapping
        Title -> legend -> float [n, 2]; the same projection in all panels.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.4), squeeze=False)
    for axis, (title, kinds) in zip(axes[0], panels.items(), strict=True):
        for number, (label, points) in enumerate(kinds.items()):
            axis.scatter(
                points[:, 0], points[:, 1], s=5 if number < 2 else 9, lw=0, alpha=0.6,
                color=COLOURS[number], label=f"{label} ({len(points):,})",
            )  # fmt: skip
        axis.set_title(title)
        axis.set_xlabel("t-SNE 1")
        axis.set_ylabel("t-SNE 2")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.legend(frameon=False, markerscale=3, loc="upper center",
                    bbox_to_anchor=(0.5, -0.08), ncols=1)  # fmt: skip
    return figure


def sequence(
    items: Sequence[tuple[str, int, bool]], target: tuple[str, int], domains: Sequence[str]
) -> Figure:
    """Draw one user's sequence from top to bottom (figure 6).

    Parameters
    ----------
    items : sequence of (title, domain, inserted)
        The history.
    target : (title, domain)
        What comes next.
    domains : sequence of str
        Names of domain 0 and 1.
    """
    figure, axis = plt.subplots(figsize=(7.6, 0.9 + 0.3 * (len(items) + 1)))
    for step, (title, domain, inserted) in enumerate(items):
        face = "white" if inserted else COLOURS[domain]
        axis.scatter(0, -step, s=70, facecolor=face, edgecolor=COLOURS[domain], lw=1.6, zorder=2)
        axis.text(0.25, -step, _short(title), va="center", fontsize=9)
    last = -len(items)
    axis.scatter(0, last, s=150, marker="*", color=COLOURS[target[1]], zorder=2)
    axis.text(0.25, last, f"next: {_short(target[0])}", va="center", fontsize=9, weight="bold")
    axis.plot([0, 0], [0, last], color="#a0aec0", lw=1, zorder=1)
    for colour, name in zip(COLOURS, domains, strict=False):
        axis.scatter([], [], s=70, color=colour, label=name)
    axis.scatter([], [], s=70, facecolor="white", edgecolor="#4a5568", lw=1.6, label="inserted")
    axis.set_xlim(-0.4, 8)
    axis.set_ylim(last - 0.8, 0.8)
    axis.axis("off")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _short(title: str, width: int = 70) -> str:
    """Cut a title; a dollar sign would begin a formula."""
    text = title if len(title) <= width else title[: width - 1] + "…"
    return text.replace("$", r"\$")
