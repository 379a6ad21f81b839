"""A paired test over users of saved ranks: three seeds tell little, thousands of users more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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

    Parameters
    ----------
    ranks : sequence of mapping
        Saved ranks of each run, as ``evaluation.report.write_ranks`` has them.
    mode : str
        ``full`` or ``uniN``.

    Returns
    -------
    pandas.DataFrame
        A row per user, indexed by domain and user; columns such as ``H@10``.
    """
    parts = []
    for found in ranks:
        rank = found[f"test_{mode}"]
        parts.append(
            pd.DataFrame(
                {
                    "domain": np.array(domains)[found["test_domains"]],
                    "user": found["users"].astype(str),
                    **{metric_label(f"{name}@{k}"): OF_RANKS[name](rank, k) for name in metrics},
                }
            )
        )
    return pd.concat(parts).groupby(["domain", "user"]).mean()


def paired_table(title: str, gains: Mapping[str, pd.DataFrame], ours: str) -> Table:
    """Compare a row with the best other one of each column, by a bootstrap over users.

    Parameters
    ----------
    gains : mapping
        Row -> what :func:`gains_of_users` returns, of the same users.

    Returns
    -------
    Table
        The relative lead and its 95% interval in percent, and the one-sided p value.
    """
    domains = list(gains[ours].index.unique("domain"))
    metrics = list(gains[ours].columns)
    parts = {"overall": slice(None), **{domain: domain for domain in domains}}
    columns = {f"{part} {metric}": (part, metric) for part in [*domains, "overall"]
               for metric in metrics}  # fmt: skip
    table = Table(title, list(columns), digits=None, ranked=False)
    rivals: dict[str, list[str]] = {}
    for column, (part, metric) in columns.items():
        values = {row: of.loc[parts[part], metric] for row, of in gains.items()}
        others = {row: of.mean() for row, of in values.items() if row != ours}
        rival = max(others, key=lambda row: others[row])
        rivals.setdefault(rival, []).append(column)
        mine, theirs = values[ours].align(values[rival], join="inner")
        lead = _lead((mine - theirs).to_numpy(), others[rival])
        for row, value in zip(("lead, %", "95%, low", "95%, high", "p"), lead, strict=True):
            table.add(row, column, [value])
    told = "; ".join(f"{rival} ({', '.join(of_rival)})" for rival, of_rival in rivals.items())
    told = escape_markdown(told if len(rivals) > 1 else next(iter(rivals)))
    table.notes.append(f"{ours} over the best other row of each column: {told}.")
    table.notes.append(
        f"Paired over test users, means over seeds; {RESAMPLES:,} bootstrap samples; one-sided p."
    )
    return table


def _lead(differences: np.ndarray, base: float) -> list[Any]:
    if not base or not differences.any():
        return [0.0, 0.0, 0.0, 1.0]
    found = stats.bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, batch=_BATCH, method="percentile", rng=42
    )
    low, high = found.confidence_interval
    p_value = float((found.bootstrap_distribution <= 0).sum() + 1) / (RESAMPLES + 1)
    return [*(100 * value / base for value in (differences.mean(), low, high)), p_value]
