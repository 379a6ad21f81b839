"""Ranks and the metrics made of them, for one held-out target per user."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_edt.errors import ConfigError

_COUNTED = 2**18
"""Scores of a CPU counted at a time: what is marked among them stays in its cache."""

METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hit": np.ones_like,
    "ndcg": lambda ranks: 1.0 / np.log2(ranks + 1.0),
    "mrr": lambda ranks: 1.0 / ranks,
}
"""Name in ``metrics:``, in lower case -> gain of a target at a rank, within the top k."""


def register_metric(name: str, gain: Callable[[np.ndarray], np.ndarray]) -> None:
    """Add a metric: the mean gain of the targets among the top k.

    Parameters
    ----------
    name : str
        For ``metrics:``; its case does not matter.
    gain : callable
        Ranks float64 [n], from 1 -> gains [n].
    """
    METRICS[name.lower()] = gain


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
    n, n_candidates = scores.shape
    step = max(_COUNTED // max(n_candidates, 1), 1) if scores.device.type == "cpu" else max(n, 1)
    exact = torch.float32 if n_candidates < 2**24 else torch.float64
    # floats: those of a CPU are marked and summed several times as fast as booleans
    marks = torch.empty(min(step, n), n_candidates, dtype=exact, device=scores.device)
    below = torch.empty(n, dtype=exact, device=scores.device)
    for start in range(0, n, step):
        part = slice(start, start + step)
        few = scores[part]
        marked = torch.lt(few, target_scores[part, None], out=marks[: len(few)])
        torch.sum(marked, dim=1, out=below[part])
    return n_candidates - below.long()


def metric_names(metrics: Sequence[str], topk: Sequence[int]) -> list[str]:
    """Names of the reported metrics, such as ``hit@10``, and the untruncated ``mrr``.

    Raises
    ------
    ConfigError
        For a metric the protocol does not have.
    """
    names = []
    for metric in metrics:
        if metric.lower() not in METRICS:
            raise ConfigError(f"unknown metric '{metric}' (known: {', '.join(METRICS)})")
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
        gains = METRICS[metric](ranks.astype(np.float64))
        if k:
            gains = np.where(ranks <= int(k), gains, 0.0)
        out[name] = float(gains.mean()) if len(ranks) else 0.0
    out["n"] = len(ranks)
    return out
