"""Pictures of experiments: bars, lines, histograms, maps of items, and one user's sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")  # pictures are files; no screen is needed

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from recbole_edt.experiment.tables import Table

# most colour-blind readers can tell them apart; the first two are the domains'
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#718096")

plt.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.prop_cycle": plt.cycler(color=COLOURS),
        "errorbar.capsize": 2,
        "grid.linewidth": 0.4,
        "legend.frameon": False,
        "svg.hashsalt": "recbole_edt",
        "figure.constrained_layout.use": True,
    }
)


def bars(table: Table, columns: Sequence[str]) -> Figure:
    """Draw one panel per column and one bar per row that has values, with deviations."""
    means = table.means()[columns].dropna(how="all")[::-1]
    axes = means.plot.barh(
        subplots=True, layout=(1, len(columns)), sharey=True, legend=False, title=list(columns),
        xerr=table.deviations(), xlabel=table.title.split(", ")[-1], width=0.66,
        figsize=(4.2 * len(columns), 1.2 + 0.32 * max(len(means), 3)),
    )  # fmt: skip
    for axis in axes.flat:
        axis.grid(False, axis="y")
    return axes.flat[0].figure


def lines(table: Table, columns: Sequence[str]) -> Figure:
    """Draw one panel per column over the values of a parameter, one per row, with deviations."""
    axes = table.means()[columns].plot(
        subplots=True, layout=(1, len(columns)), legend=False, title=list(columns), marker="o",
        yerr=table.deviations(), figsize=(4.2 * len(columns), 3.2), sharex=False,
    )  # fmt: skip
    return axes.flat[0].figure


def grouped_bars(tables: Mapping[str, Table], column: str) -> Figure:
    """Draw a column of tables that have the same rows: one group per row, one bar per table."""
    means = pd.DataFrame({label: table.means()[column] for label, table in tables.items()})
    errors = pd.DataFrame({label: table.deviations()[column] for label, table in tables.items()})
    figure, axis = plt.subplots(figsize=(1.6 + 1.25 * len(means), 3.4))
    means.plot.bar(ax=axis, yerr=errors, rot=0, width=0.8, ylabel=column, legend=False)
    axis.grid(False, axis="x")
    figure.legend(loc="outside upper center", ncols=min(len(tables), 4))
    return figure


def histogram(shares: Mapping[str, Mapping[str, float]], xlabel: str, ylabel: str) -> Figure:
    """Draw shares (legend -> range -> 0 to 1) by range, one colour per legend (figure 1)."""
    percents = 100 * pd.DataFrame(shares)
    axis = percents.plot.bar(width=0.8, rot=30, xlabel=xlabel, ylabel=ylabel, figsize=(8.2, 3.4))
    axis.grid(False, axis="x")
    return axis.figure


def item_map(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw items (title of the panel -> legend -> float [n, 2]) as points (figure 3)."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.4), squeeze=False)
    for axis, (title, kinds) in zip(axes[0], panels.items(), strict=True):
        for number, (label, points) in enumerate(kinds.items()):
            name = f"{label} ({len(points):,})"
            axis.scatter(*points.T, s=5 if number < 2 else 9, lw=0, alpha=0.6, label=name)
        axis.set(title=title, xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
        axis.legend(markerscale=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return figure


def sequence(steps: Sequence[tuple[str, int, bool]], domains: Sequence[str]) -> Figure:
    """Draw one user's history of (title, domain, inserted) and the next item, the last (fig. 6)."""
    last = 1 - len(steps)
    figure, axis = plt.subplots(figsize=(7.6, 0.9 + 0.3 * len(steps)))
    for step, (title, domain, inserted) in enumerate(steps):
        text = title if len(title) <= 70 else f"{title[:69]}…"
        text = text.replace("$", r"\$")  # it would begin a formula
        colour = COLOURS[domain]
        if step == -last:
            axis.scatter(0, last, s=150, marker="*", color=colour, zorder=2)
            axis.text(0.25, last, f"next: {text}", weight="bold", va="center", fontsize=9)
        else:
            face = "white" if inserted else colour
            axis.scatter(0, -step, s=70, facecolor=face, edgecolor=colour, lw=1.6, zorder=2)
            axis.text(0.25, -step, text, va="center", fontsize=9)
    axis.plot([0, 0], [0, last], color="#a0aec0", lw=1, zorder=1)
    for colour, name in zip(COLOURS, domains, strict=False):
        axis.scatter([], [], s=70, color=colour, label=name)
    axis.scatter([], [], s=70, facecolor="white", edgecolor="#4a5568", lw=1.6, label="inserted")
    axis.set(xlim=(-0.4, 8), ylim=(last - 0.8, 0.8))
    axis.axis("off")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
