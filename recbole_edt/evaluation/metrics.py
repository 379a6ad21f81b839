"""Ranks and the metrics made of them, for one held-out target per user."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_edt.errors import ConfigError

_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hit": np.ones_like,
    "ndcg": lambda ranks: 1.0 / np.log2(ranks + 1.0),
    "mrr": lambda ranks: 1.0 / ranks,
}


def count_not_below(scores: Tensor, target_scores: Tensor) -> Tensor:
    """Count, per row, the candidates that do not score below the target: ties never count as wins.

    Parameters
    ----------
    scores : Tensor
        [n, n_candidates]; a NaN counts against the target.
    target_scores : Tensor
        [n].

    Returns
    -------
    Tensor
        int64 [n].
    """
    below = (scores < target_scores[:, None]).view(torch.uint8)  # summed faster than booleans
    return scores.shape[1] - below.sum(dim=1, dtype=torch.int32).long()


def metric_names(metrics: Sequence[str], topk: Sequence[int]) -> list[str]:
    """Names of the reported metrics, such as ``hit@10``, and the untruncated ``mrr``.

    Raises
    ------
    ConfigError
        For a metric the protocol does not have.
    """
    names = []
    for metric in metrics:
        if metric.lower() not in _METRICS:
            raise ConfigError(f"unknown metric '{metric}' (known: {', '.join(_METRICS)})")
        names += [f"{metric.lower()}@{k}" for k in topk]
    return [*names, "mrr"]


def summarise(ranks: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Average metrics over users.

    Parameters
    ----------
    ranks : np.ndarray
        int64 [n]; rank of each user's target, from 1.
    names : sequence of str
        As :func:`metric_names` gives them.

    Returns
    -------
    dict
        Metric name -> mean (0 for no users), and ``n``, the number of users.
    """
    out: dict[str, float] = {}
    for name in names:
        metric, _, k = name.partition("@")
        gains = _METRICS[metric](ranks.astype(np.float64))
        if k:
            gains = np.where(ranks <= int(k), gains, 0.0)
        out[name] = float(gains.mean()) if len(ranks) else 0.0
    out["n"] = len(ranks)
    return out
