"""A paired test over users of saved ranks: three seeds tell little, thousands of users more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from recbole_edt.evaluation.report import ndcg_of
from recbole_edt.experiment.layout import metric_label
from recbole_edt.experiment.tables import Table, escape_markdown

OF_RANKS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "hit": lambda ranks, k: ranks <= k,
    "recall": lambda ranks, k: ranks <= k,
    "ndcg": ndcg_of,
    "mrr": lambda ranks, k: np.where(ranks <= k, 1 / ranks, 0.0),
}
"""Metrics that are tested: values of ranks [n] at k."""

RESAMPLES = 2000
_BATCH = 100  # resamples at a time


def gains_of_users(
    ranks: Sequence[Mapping[str, np.ndarray]],
    mode: str,
    metrics: Sequence[str],
    k: int,
    domains: Sequence[str],
) -> pd.DataFrame:
    """Metrics of :data:`OF_RANKS` of each user's test target, means over the runs of a model.

    ``ranks`` are those of each run, as ``evaluation.report.write_ranks`` saves them. The frame has
    a row per user, indexed by domain and user, and columns such as ``H@10``.
    """
    parts = [
        pd.DataFrame(
            {
                "domain": np.array(domains)[found["test_domains"]],
                "user": found["users"].astype(str),
                **{
                    metric_label(f"{name}@{k}"): OF_RANKS[name](found[f"test_{mode}"], k)
                    for name in metrics
                },
            }
        )
        for found in ranks
    ]
    return pd.concat(parts).groupby(["domain", "user"]).mean()


def paired_table(title: str, gains: Mapping[str, pd.DataFrame], ours: str) -> Table:
    """Compare a row with the best other one of each column, by a bootstrap over users.

    ``gains`` holds for each row what :func:`gains_of_users` returns, of the same users. The table
    has the relative lead and its 95% interval in percent, and the one-sided p value.
    """
    parts = {**{domain: domain for domain in gains[ours].index.unique("domain")},
             "overall": slice(None)}  # fmt: skip
    columns = {f"{part} {metric}": (users, metric) for part, users in parts.items()
               for metric in gains[ours].columns}  # fmt: skip
    table = Table(title, list(columns), digits=None, ranked=False)
    rivals: dict[str, list[str]] = {}
    for column, cells in columns.items():
        values = {row: of.loc[cells] for row, of in gains.items()}
        others = {row: of.mean() for row, of in values.items() if row != ours}
        rival = max(others, key=lambda row: others[row])
        rivals.setdefault(rival, []).append(column)
        mine, theirs = values[ours].align(values[rival], join="inner")
        lead = _lead((mine - theirs).to_numpy(), others[rival])
        for row, value in zip(("lead, %", "95%, low", "95%, high", "p"), lead, strict=True):
            table.add(row, column, [value])
    told = "; ".join(f"{rival} ({', '.join(of_rival)})" for rival, of_rival in rivals.items())
    told = escape_markdown(told if len(rivals) > 1 else next(iter(rivals)))
    table.notes = [
        f"{ours} over the best other row of each column: {told}.",
        f"Paired over test users, means over seeds; {RESAMPLES:,} bootstrap samples; one-sided p.",
    ]
    return table


def _lead(differences: np.ndarray, base: float) -> list[float]:
    """Lead and its interval in percent of ``base``, and p; NaN for what cannot be told."""
    if not differences.any():
        return [0.0, 0.0, 0.0, 1.0]
    percent = 100 / base if base else math.nan
    if len(differences) < 2:  # users, of whom samples are drawn
        return [percent * differences.mean(), math.nan, math.nan, math.nan]
    found = stats.bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, batch=_BATCH, method="percentile",
        random_state=np.random.default_rng(42),  # `rng` from SciPy 1.15 on, which takes both
    )  # fmt: skip
    low, high = found.confidence_interval
    p_value = float((found.bootstrap_distribution <= 0).sum() + 1) / (RESAMPLES + 1)
    return [*(percent * value for value in (differences.mean(), low, high)), p_value]
