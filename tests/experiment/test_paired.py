"""The paired test over users: what it compares, and what it says of a known difference."""

import numpy as np
import pytest

from recbole_edt.experiment.paired import gains_of_users, paired_table
from recbole_edt.experiment.tables import Table

DOMAINS = ["art", "bike"]
METRICS = ["hit", "ndcg"]


def saved(ranks, users=None, domains=None) -> dict:
    n = len(ranks)
    return {
        "test_full": np.array(ranks, dtype=np.int32),
        "users": np.array([f"u{i}" for i in range(n)] if users is None else users),
        "test_domains": np.array([i % 2 for i in range(n)] if domains is None else domains),
    }


def compared(rows) -> Table:
    """What the test says of rows: row -> ranks of users."""
    gains = {row: gains_of_users([saved(ranks)], "full", METRICS, 10, DOMAINS)
             for row, ranks in rows.items()}  # fmt: skip
    return paired_table("t", gains, "LLMEDT")


def test_gains_are_means_over_seeds_of_each_user_in_any_order() -> None:
    one = saved([1, 11, 3], ["b", "a", "c"], [0, 1, 0])
    other = saved([2, 12, 3], ["c", "a", "b"], [0, 1, 0])
    gains = gains_of_users([one, other], "full", ["recall", *METRICS, "mrr"], 10, DOMAINS)
    assert gains.index.tolist() == [("art", "b"), ("art", "c"), ("bike", "a")]
    assert gains["H@10"].tolist() == gains["Recall@10"].tolist() == [1, 1, 0]
    assert gains["MRR@10"].tolist() == pytest.approx([(1 + 1 / 3) / 2, (1 / 3 + 1 / 2) / 2, 0])
    expected = [(1 + 1 / np.log2(4)) / 2, (1 / np.log2(4) + 1 / np.log2(3)) / 2, 0]
    assert gains["N@10"].tolist() == pytest.approx(expected)


def test_a_lead_over_the_best_other_row() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.integers(1, 40, size=600)
    better = np.where(rng.random(600) < 0.2, 1, theirs)  # a fifth of the users gain, none loses
    rows = {"LLMEDT": better, "weak": theirs + 30, "rival": theirs}
    table = compared(rows)
    means = table.means()
    assert list(means.columns)[-1] == "overall N@10" and len(means.columns) == 6
    lead = 100 * ((better <= 10).mean() / (theirs <= 10).mean() - 1)
    assert means.at["lead, %", "overall H@10"] == pytest.approx(lead)
    low, high = means.at["95%, low", "overall H@10"], means.at["95%, high", "overall H@10"]
    assert 0 < low < lead < high
    assert means.at["p", "overall H@10"] == 1 / 2001  # no sample can say less
    assert table.notes[0] == "LLMEDT over the best other row of each column: rival."


def test_rows_that_differ_by_chance_alone_have_a_large_p() -> None:
    rng = np.random.default_rng(1)
    mine = rng.integers(1, 40, size=400)  # the rival has the same ranks, of other users
    rows = {"LLMEDT": mine, "rival": rng.permutation(mine)}
    means = compared(rows).means()
    assert 0.4 < means.at["p", "overall H@10"] < 0.6
    assert means.at["95%, low", "overall H@10"] < 0 < means.at["95%, high", "overall H@10"]


@pytest.mark.parametrize(
    ("ours", "theirs", "lead"),
    [([1, 1, 1, 1], [30] * 4, float("nan")), ([1, 30], [2, 30], 100 * (np.log2(3) - 1))],
    ids=["the rival has 0", "one user in a domain"],
)
def test_what_has_no_relative_lead_or_no_sample_has_none(ours, theirs, lead) -> None:
    means = compared({"LLMEDT": ours, "rival": theirs}).means()
    assert means.at["lead, %", "art N@10"] == pytest.approx(lead, nan_ok=True)
    p = means.at["p", "art N@10"]
    assert np.isnan(p) if len(ours) == 2 else p < 0.05


def test_rows_that_agree_have_no_lead() -> None:
    means = compared({row: [1, 2, 30, 4] for row in ("LLMEDT", "rival")}).means()
    assert means.loc["p"].tolist() == [1.0] * 6
