"""Tables of means over seeds: best bold, second underlined, improvement, significance.

One :class:`Table` is written as CSV (figures), Markdown and LaTeX (figures as they are read).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from recbole_edt.io.files import atomic_write

LEVEL = 0.05
"""Level of significance (paper, section 4.2)."""


@dataclass
class Table:
    """Values of rows under columns, several per cell (one per seed).

    Attributes
    ----------
    title : str
        What the table shows.
    columns : sequence of str
        Names of the columns, such as ``cloth H@10``.
    cells : dict
        Row -> column -> values over seeds; a missing or empty cell was not measured.
    ours : str, optional
        The row whose lead over the best other is tested.
    lower_is_better : set of str
        Columns of costs.
    notes : list of str
        Lines below the table.
    digits : int
        Decimals shown.
    ranked : bool
        Whether the best and second best of a column stand out.
    """

    title: str
    columns: Sequence[str]
    cells: dict[str, dict[str, Sequence[float]]] = field(default_factory=dict)
    ours: str | None = None
    lower_is_better: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    digits: int = 4
    ranked: bool = True

    def add(self, row: str, column: str, values: Sequence[float]) -> None:
        """Put values into a cell."""
        self.cells.setdefault(row, {})[column] = list(values)

    def values(self, row: str, column: str) -> np.ndarray:
        """Values of a cell, float64 [n_seeds]; empty if not measured."""
        return np.asarray(self.cells.get(row, {}).get(column, ()), dtype=np.float64)

    def mean(self, row: str, column: str) -> float:
        """Mean of a cell; NaN if not measured."""
        values = self.values(row, column)
        return float(values.mean()) if len(values) else math.nan

    def deviation(self, row: str, column: str) -> float:
        """Sample standard deviation of a cell; NaN for fewer than two values."""
        values = self.values(row, column)
        return float(values.std(ddof=1)) if len(values) > 1 else math.nan

    def shown(self, value: float) -> str:
        """Write a figure with the table's decimals, and a whole number above ten without."""
        if abs(value) >= 10 and value == round(value):
            return f"{value:,.0f}"
        return f"{value:.{self.digits}f}"

    def order(self, column: str) -> list[str]:
        """Rows that have the column, best mean first."""
        rows = [row for row in self.cells if len(self.values(row, column))]
        sign = 1 if column in self.lower_is_better else -1
        return sorted(rows, key=lambda row: sign * self.mean(row, column))

    def lead(self, column: str) -> Lead | None:
        """Compare our row with the best other one; None without both."""
        if self.ours is None or not len(self.values(self.ours, column)):
            return None
        others = [row for row in self.order(column) if row != self.ours]
        if not others:
            return None
        mine, theirs = self.values(self.ours, column), self.values(others[0], column)
        sign = -1 if column in self.lower_is_better else 1
        return Lead(
            others[0],
            sign * (mine.mean() - theirs.mean()) / theirs.mean() if theirs.mean() else math.nan,
            welch(sign * mine, sign * theirs),
        )


@dataclass(frozen=True)
class Lead:
    """How far our row is ahead of the best other one.

    Attributes
    ----------
    rival : str
        The best other row.
    improvement : float
        Relative; negative where we are behind.
    p_value : float
        Of a one-sided test; NaN for fewer than two seeds on either side.
    """

    rival: str
    improvement: float
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether the lead passes the paper's level."""
        return self.p_value < LEVEL


def welch(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Test one-sidedly whether our mean is larger, without assuming equal variances (Welch).

    Parameters
    ----------
    ours, theirs : np.ndarray
        float64 [n_seeds]; one figure per seed.

    Returns
    -------
    float
        The p value; NaN for fewer than two values on either side.
    """
    if min(len(ours), len(theirs)) < 2:
        return math.nan
    if ours.std() == theirs.std() == 0:  # no variance to test against
        return 0.0 if ours.mean() > theirs.mean() else 1.0
    with warnings.catch_warnings():  # seeds that agree to the last digit are no loss of precision
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ttest_ind(ours, theirs, equal_var=False, alternative="greater").pvalue)


def to_frame(table: Table) -> pd.DataFrame:
    """One line per row and column: mean, deviation, number of seeds and their values."""
    lines = [
        (
            table.title,
            row,
            column,
            table.mean(row, column),
            table.deviation(row, column),
            len(table.values(row, column)),
            " ".join(f"{value:.6g}" for value in table.values(row, column)),
        )
        for row in table.cells
        for column in table.columns
        if len(table.values(row, column))
    ]
    names = ["table", "row", "column", "mean", "deviation", "n", "values"]
    return pd.DataFrame(lines, columns=names)


@dataclass(frozen=True)
class _Marks:
    """How a format writes what stands out."""

    best: str
    second: str
    plus_minus: str
    star: str
    missing: str
    percent: str


_MARKDOWN = _Marks("**{}**", "<u>{}</u>", " ± ", "\\*", "–", "{:+.2f} %")
_LATEX = _Marks("\\textbf{{{}}}", "\\underline{{{}}}", " $\\pm$ ", "$^{*}$", "--", "{:+.2f}\\,\\%")


def _cell(table: Table, row: str, column: str, marks: _Marks) -> str:
    if not len(table.values(row, column)):
        return marks.missing
    text = table.shown(table.mean(row, column))
    order = table.order(column) if table.ranked else []
    if len(order) > 1 and row == order[0]:
        text = marks.best.format(text)
    elif len(order) > 2 and row == order[1]:
        text = marks.second.format(text)
    lead = table.lead(column) if row == table.ours else None
    if lead is not None and lead.significant:
        text += marks.star
    deviation = table.deviation(row, column)
    if not math.isnan(deviation):
        text += f"{marks.plus_minus}{table.shown(deviation)}"
    return text


def _body(table: Table, marks: _Marks) -> list[list[str]]:
    rows = [[row, *(_cell(table, row, c, marks) for c in table.columns)] for row in table.cells]
    leads = [table.lead(column) for column in table.columns]
    if any(leads):
        percents = [
            marks.missing
            if lead is None or math.isnan(lead.improvement)
            else marks.percent.format(100 * lead.improvement)
            for lead in leads
        ]
        rows.append(["improvement", *percents])
    return rows


def to_markdown(table: Table) -> str:
    """Lay a table out for readers of Markdown."""
    lines = [f"### {table.title}", ""]
    lines += _grid(["", *table.columns], _body(table, _MARKDOWN))
    if any(table.lead(column) for column in table.columns):
        lines += ["", f"\\* p < {LEVEL} over the best other (one-sided Welch t-test over seeds)"]
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruled = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in (header, ruled, *rows)]


def to_latex(table: Table) -> str:
    """Lay a table out for LaTeX (booktabs)."""
    body = _body(table, _LATEX)
    rows = [" & ".join([escape_latex(first), *rest]) + " \\\\" for first, *rest in body]
    if body and body[-1][0] == "improvement":
        rows.insert(-1, "\\midrule")
    head = " & ".join(["", *map(escape_latex, table.columns)]) + " \\\\"
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escape_latex(table.title)}}}",
            f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            "\\toprule",
            head,
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Escape what LaTeX would take for commands."""
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "τ": r"$\tau$", "α": r"$\alpha$", "≥": r"$\geq$", "–": "--",
    }  # fmt: skip
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def write_tables(folder: Path, name: str, tables: Sequence[Table]) -> list[Path]:
    """Write tables as ``<name>.csv``, ``.md`` and ``.tex``, each whole or not at all.

    Returns
    -------
    list of Path
        The files.
    """
    frame = pd.concat(map(to_frame, tables), ignore_index=True)
    texts = {
        "csv": frame.to_csv(index=False, float_format="%.6g"),
        "md": "\n".join(map(to_markdown, tables)),
        "tex": "\n".join(map(to_latex, tables)),
    }
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{name}.{suffix}"
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths
