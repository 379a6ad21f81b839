"""Metrics of ranks, for one held-out target per user."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from recbole_edt.errors import ConfigError

# ranks, float64 [n] from 1 -> gains [n]; `summarise` sets those of ranks beyond k to 0
Metric = Callable[[np.ndarray], np.ndarray]

METRICS: dict[str, Metric] = {
    "hit": np.ones_like,
    "ndcg": lambda ranks: 1.0 / np.log2(ranks + 1.0),
    "mrr": lambda ranks: 1.0 / ranks,
}
"""The metrics, by their names in lower case."""


def register_metric(name: str, metric: Metric) -> None:
    """Add a metric, or replace one."""
    METRICS[name.lower()] = metric


def metric_names(metrics: Sequence[str], topk: Sequence[int]) -> list[str]:
    """Names such as ``hit@10``, and the untruncated ``mrr``; ConfigError for unknown metrics."""
    for metric in metrics:
        if metric.lower() not in METRICS:
            raise ConfigError(f"unknown metric '{metric}' (known: {', '.join(METRICS)})")
    return [*(f"{metric.lower()}@{k}" for metric in metrics for k in topk), "mrr"]


def summarise(ranks: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Average metrics over users.

    Parameters
    ----------
    ranks : np.ndarray
        int64 [n]; rank of each user's target, from 1.
    names : sequence of str
        As :func:`metric_names` returns them.

    Returns
    -------
    dict
        Metric name -> mean (0 for no users), and ``n``, the number of users.
    """
    out: dict[str, float] = {}
    for name in names:
        metric, _, k = name.partition("@")
        gains = METRICS[metric](ranks.astype(np.float64))
        if k:
            gains = np.where(ranks <= int(k), gains, 0.0)
        out[name] = float(gains.mean()) if len(ranks) else 0.0
    out["n"] = len(ranks)
    return out
