"""Means, marks, leads and their significance, in figures and in three formats."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest

from recbole_edt.experiment import tables
from recbole_edt.experiment.tables import Table, to_markdown, welch


@pytest.fixture
def table() -> Table:
    out = Table("shop_a, test", ["H", "N"], ours="ours")
    out.add("SASRec", "H", [0.2, 0.22, 0.24])
    out.add("SASRec", "N", [0.5, 0.5, 0.5])
    out.add("weak", "H", [0.1])
    out.add("ours", "H", [0.3, 0.33, 0.36])
    out.add("ours", "N", [0.4, 0.5, 0.45])
    out.notes.append("A note.")
    return out


def test_welch_by_hand() -> None:
    ours, theirs = np.array([0.3, 0.33, 0.36]), np.array([0.2, 0.22, 0.24])
    # means .33 and .22, variances .0009 and .0004: t = .11 / sqrt(.0013 / 3)
    t = 0.11 / math.sqrt(0.0013 / 3)
    freedom = (0.0013 / 3) ** 2 / ((0.0009 / 3) ** 2 / 2 + (0.0004 / 3) ** 2 / 2)
    # one-sided tail of Student's t, by summing its density
    x = np.linspace(t, t + 400, 400_001)
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    assert welch(ours, theirs) == pytest.approx(scale * np.trapezoid(density, x), rel=1e-3)
    assert welch(theirs, ours) == pytest.approx(1 - welch(ours, theirs))


def test_welch_where_there_is_nothing_to_test() -> None:
    assert math.isnan(welch(np.array([1.0]), np.array([0.1, 0.2])))
    assert welch(np.array([0.5, 0.5]), np.array([0.4, 0.4])) == 0.0
    assert math.isnan(welch(np.array([0.4, 0.4]), np.array([0.4, 0.4])))


def test_lead_over_the_best_other_row(table) -> None:
    lead = table.lead("H")
    assert lead.baseline == "SASRec"
    assert lead.improvement == pytest.approx(0.5)
    assert lead.p_value < 0.05
    behind = table.lead("N")
    assert behind.improvement == pytest.approx(-0.1)
    assert behind.p_value > 0.05


def test_where_smaller_is_better_the_smallest_leads(table) -> None:
    table.smaller = {"H"}
    assert (table.order("H"), table.order("N")) == (["weak", "SASRec", "ours"], ["SASRec", "ours"])
    table.add("ours", "H", [0.09, 0.07])
    table.add("weak", "H", [0.1, 0.11])
    lead = table.lead("H")
    assert (lead.baseline, lead.improvement) == ("weak", pytest.approx(0.025 / 0.105))
    assert lead.p_value == pytest.approx(welch(np.array([0.1, 0.11]), np.array([0.09, 0.07])))


def test_rows_that_are_alike_stand_out_alike() -> None:
    table = Table("shop_a, test", ["H", "N"])
    for row, n in (("one", 0.5), ("two", 0.5), ("three", 0.4)):
        table.add(row, "H", [0.2])
        table.add(row, "N", [n])
    text = to_markdown(table)
    assert text.count("**0.5000**") == 2 and "<u>" not in text and "**0.2000**" not in text
    assert table.best() == "Best in N: one (0.5000) and two (0.5000)."


def test_markdown(table) -> None:
    text = re.sub(" +", " ", to_markdown(table))
    assert [line for line in text.splitlines() if line and ":--" not in line] == [
        "### shop_a, test",
        "| | H | N |",
        "| SASRec | <u>0.2200</u> ± 0.0200 | **0.5000** ± 0.0000 |",
        "| weak | 0.1000 | – |",
        "| ours | **0.3300**\\* ± 0.0300 | 0.4500 ± 0.0500 |",
        "| improvement | +50.00 % | -10.00 % |",
        "\\* p < 0.05 over the best other (one-sided Welch t-test over seeds)",
        "A note.",
    ]
    table.cells["a|b"] = {}
    assert "| a\\|b " in to_markdown(table)
    table.ours, table.ranked = None, False
    assert not re.search(r"\*\*|<u>|improvement", to_markdown(table))


def test_latex(table) -> None:
    lines = tables.to_latex(table).splitlines()
    assert "\\caption{shop\\_a, test}" in lines
    assert (
        "SASRec & \\underline{0.2200} $\\pm$ 0.0200 & \\textbf{0.5000} $\\pm$ 0.0000 \\\\" in lines
    )
    assert "ours & \\textbf{0.3300}$^{*}$ $\\pm$ 0.0300 & 0.4500 $\\pm$ 0.0500 \\\\" in lines
    assert lines[lines.index("\\bottomrule") - 2 :][0] == "\\midrule"
    assert tables.escape_latex("τ = 5 % & more_") == "$\\tau$ = 5 \\% \\& more\\_"


def test_files_hold_every_table(table, tmp_path) -> None:
    other = Table("second", ["H"])
    other.add("SASRec", "H", [0.25])
    tables.write_tables(tmp_path / "new", "compare", [table, other])
    paths = [tmp_path / "new" / f"compare.{suffix}" for suffix in ("csv", "tex")]
    frame = pd.read_csv(paths[0])
    assert frame["table"].unique().tolist() == ["shop_a, test", "second"]
    line = frame[(frame["row"] == "ours") & (frame["column"] == "H")].iloc[0]
    assert (line["mean"], line["deviation"], line["n"]) == pytest.approx((0.33, 0.03, 3))
    assert line["values"] == "0.3 0.33 0.36"
    assert len(tables.to_frame(table)) == 5
    assert paths[1].read_text().count("\\end{table}") == 2


def test_digits_are_those_that_say_something() -> None:
    table = Table("costs", ["x"], digits=None)
    shown = [table.shown(value) for value in (3.0, 1234.5, 12.345, 0.0123456, 9e-6, 0.0)]
    assert shown == ["3", "1,234", "12.3", "0.0123", "0.000009", "0"]
    table.add("a", "x", [4.71, 4.74])
    table.add("b", "x", [2.0, 2.0])
    text = re.sub(" +", " ", to_markdown(table))
    assert "| **4.72** ± 0.02 |" in text and "| b | 2 |" in text
    table.digits = 4
    assert [table.shown(value) for value in (1.0, 12.0, 0.25)] == ["1.0000", "12", "0.2500"]


def test_one_seed_has_neither_a_star_nor_its_explanation() -> None:
    table = Table("one", ["art N@10"], ours="ours").add_rows({"ours": [0.3], "SASRec*": [0.2]})
    text = to_markdown(table, 4)
    assert text.startswith("### Table 4: one\n") and "+50.00 %" in text and "p < " not in text
    assert table.best() == "Best in art N@10: ours (0.3000) before SASRec* (0.2000)."
