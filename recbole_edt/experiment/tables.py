"""Tables of means over seeds: best bold, second underlined, improvement, significance.

One :class:`Table` is written as CSV (figures), Markdown and LaTeX (figures as they are read).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from recbole_edt.io.files import write_text

LEVEL = 0.05  # of significance (paper, section 4.2)
PAPER = ", paper"  # end of the name of a column that the paper prints


class Lead(NamedTuple):
    """How far a row is ahead of the best other one: relatively, and the p value of a Welch test."""

    baseline: str
    improvement: float
    p_value: float


@dataclass
class Table:
    """Values of rows under columns, several per cell (one per seed)."""

    title: str
    columns: Sequence[str]
    cells: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # row -> column ->
    ours: str | None = None  # the row whose lead over the best other is tested
    notes: list[str] = field(default_factory=list)  # lines below the table
    digits: int | None = 4  # decimals; None: three significant digits
    ranked: bool = True  # whether the best and second best of a column stand out
    smaller: Collection[str] = ()  # columns whose smaller values are better
    printed: bool = False  # in the paper, not measured on the data set
    few: set[tuple[str, str]] = field(default_factory=set)  # cells of fewer than ten users

    def add(self, row: str, column: str, values: Sequence[float]) -> None:
        """Put values into a cell."""
        self.cells.setdefault(row, {})[column] = list(values)

    def add_rows(self, rows: Mapping[str, Iterable[float | None]]) -> Table:
        """Put one value, or none, into each cell of rows; return the table."""
        for row, values in rows.items():
            for column, value in zip(self.columns, values, strict=True):
                self.add(row, column, [] if value is None else [value])
        return self

    def values(self, row: str, column: str) -> pd.Series:
        """Values of a cell, float64 [n_seeds]; empty if not measured."""
        return pd.Series(self.cells.get(row, {}).get(column, []), dtype=np.float64)

    def means(self) -> pd.DataFrame:
        """Means over seeds, rows x columns; NaN if not measured."""
        return self._reduced(pd.Series.mean)

    def deviations(self) -> pd.DataFrame:
        """Sample standard deviations, rows x columns; NaN for fewer than two values."""
        return self._reduced(pd.Series.std)

    def _reduced(self, how: Callable[[pd.Series], Any]) -> pd.DataFrame:
        rows = list(self.cells)
        return pd.DataFrame(
            {c: [how(self.values(row, c)) for row in rows] for c in self.columns}, rows
        )

    def order(self, column: str) -> list[str]:
        """Rows that have the column, best mean first."""
        means = self.means()[column].dropna()
        smaller = column in self.smaller
        return list(means.sort_values(ascending=smaller, kind="stable").index)

    def lead(self, column: str) -> Lead | None:
        """Compare our row with the best other one; None without both."""
        order = self.order(column)
        rival = next((row for row in order if row != self.ours), None)
        if self.ours not in order or rival is None:
            return None
        sign = -1 if column in self.smaller else 1
        mine, theirs = (self.values(row, column) * sign for row in (self.ours, rival))
        base = theirs.mean()
        gain = (mine.mean() - base) / abs(base) if base else math.nan
        return Lead(rival, gain, welch(mine.to_numpy(), theirs.to_numpy()))

    def shown(self, value: float) -> str:
        """Write a figure with the table's digits, and a whole number without decimals."""
        if value == round(value) and (self.digits is None or abs(value) >= 10):
            return f"{value:,.0f}"
        if self.digits is not None:
            return f"{value:.{self.digits}f}"
        if abs(value) >= 100:
            return f"{value:,.0f}"
        return np.format_float_positional(value, 3, fractional=False, trim="-")

    def columns_of(self, part: str) -> list[str]:
        """Columns of the first two metrics of a domain, or of ``overall``."""
        return [c for c in self.columns if c.rpartition(" ")[0] == part][:2]

    def parts(self) -> list[str]:
        """Domains of columns such as ``cloth H@10``; ``overall`` if there are no others."""
        measured = [c for c in self.columns if not c.endswith(PAPER)]
        found = dict.fromkeys(c.rpartition(" ")[0] for c in measured)
        return [part for part in found if part != "overall"] or list(found)

    def best(self) -> str:
        """Say in a sentence which rows are best in the second metric of each domain, or the first.

        '' where rows do not compete.
        """
        told = []
        for column in (self.columns_of(part)[-1] for part in self.parts()):
            means = self.means()[column][self.order(column)[:2]]
            rows = [f"{row} ({self.shown(mean)})" for row, mean in means.items()]
            if self.ranked and len(rows) > 1:
                between = " before " if means.nunique() > 1 else " and "
                told.append(f"{column}: {between.join(rows)}")
        return f"Best in {'; '.join(told)}." if told else ""


def welch(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Test one-sidedly whether our mean is larger, without assuming equal variances (Welch).

    Returns the p value of figures over seeds, float64 [n_seeds] each; NaN for fewer than two, and
    where all are the same.
    """
    with warnings.catch_warnings():  # few seeds, or such as agree to the last digit
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ttest_ind(ours, theirs, equal_var=False, alternative="greater").pvalue)


def to_frame(table: Table) -> pd.DataFrame:
    """One line per row and column: mean, deviation, number of seeds and their values."""
    lines = []
    for row in table.cells:
        for column in table.columns:
            values = table.values(row, column)
            if len(values):
                told = " ".join(f"{value:.6g}" for value in values)
                measured = (values.mean(), values.std(), len(values), told)
                lines.append((table.title, row, column, *measured))
    names = ["table", "row", "column", "mean", "deviation", "n", "values"]
    return pd.DataFrame(lines, columns=names)


class _Marks(NamedTuple):
    """How a format writes what stands out."""

    best: str
    second: str
    plus_minus: str
    star: str
    missing: str
    percent: str
    few: str


_MARKDOWN = _Marks("**{}**", "<u>{}</u>", " ± ", "\\*", "–", "{:+.2f} %", " †")
_LATEX = _Marks(
    "\\textbf{{{}}}", "\\underline{{{}}}", " $\\pm$ ", "$^{*}$", "--", "{:+.2f}\\,\\%",
    "$^{\\dagger}$",
)  # fmt: skip


def _texts(table: Table, marks: _Marks) -> pd.DataFrame:
    """Cells as they are read, and a last row of our improvement."""
    means, deviations = table.means(), table.deviations()
    leads = {column: table.lead(column) for column in table.columns}
    rows = [*table.cells, *(["improvement"] if any(leads.values()) else [])]
    texts = pd.DataFrame(marks.missing, index=rows, columns=list(table.columns))
    for column, lead in leads.items():
        better = means[column].dropna().rank(method="min", ascending=column in table.smaller) - 1
        for row, rank in better.items():
            text = table.shown(means.at[row, column])
            if table.ranked and rank < min(better.max(), 2):  # neither the last nor the only one
                text = (marks.best, marks.second)[int(rank)].format(text)
            if row == table.ours and lead and lead.p_value < LEVEL:
                text += marks.star
            if not math.isnan(deviation := deviations.at[row, column]):
                decimals = len(table.shown(means.at[row, column]).partition(".")[2])
                if table.digits is not None or round(deviation, decimals):
                    text += f"{marks.plus_minus}{deviation:,.{decimals}f}"
            if (row, column) in table.few:
                text += marks.few
            texts.at[row, column] = text
        if lead and not math.isnan(lead.improvement):
            texts.at["improvement", column] = marks.percent.format(100 * lead.improvement)
    return texts


def to_markdown(table: Table, number: int | None = None) -> str:
    """Lay a table out for readers of Markdown; ``number`` goes before its title."""
    frame = _texts(table, _MARKDOWN)
    frame = frame.rename(index=_escape_bars, columns=_escape_bars)
    align = ("left", *["right"] * len(table.columns))
    text = frame.to_markdown(disable_numparse=True, colalign=align)
    parts = [f"### {f'Table {number}: ' if number else ''}{table.title}", text]
    if _MARKDOWN.star in text:
        parts.append(f"\\* p < {LEVEL} over the best other (one-sided Welch t-test over seeds)")
    if table.few:
        parts.append("† Fewer than ten users.")
    return "\n\n".join([*parts, *table.notes]) + "\n"


def to_latex(table: Table) -> str:
    """Lay a table out for LaTeX (booktabs)."""
    frame = _texts(table, _LATEX).rename(index=escape_latex, columns=escape_latex)
    form, caption = "l" + "r" * len(table.columns), escape_latex(table.title)
    text = frame.to_latex(escape=False, caption=caption, column_format=form)
    text = text.replace("\\begin{table}\n", "\\begin{table}\n\\centering\n")
    return text.replace("\nimprovement &", "\n\\midrule\nimprovement &")


def escape_markdown(text: str) -> str:
    """Escape asterisks, as of `SASRec*`, two of which would begin and end emphasis."""
    return text.replace("*", r"\*")


def _escape_bars(name: str) -> str:
    return name.replace("|", r"\|")  # which ends a cell of a table


def escape_latex(text: str) -> str:
    """Escape what LaTeX would take for commands."""
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "τ": r"$\tau$", "α": r"$\alpha$", "≥": r"$\geq$", "–": "--",
    }  # fmt: skip
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def write_tables(folder: Path, name: str, tables: Sequence[Table]) -> None:
    """Write tables as ``<name>.csv`` and ``<name>.tex``, each whole or not at all."""
    frame = pd.concat(map(to_frame, tables), ignore_index=True)
    write_text(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    write_text(folder / f"{name}.tex", "\n".join(map(to_latex, tables)))
