"""Metrics: hand-computed values; ties and NaN never win."""

import math

import numpy as np
import pytest
import torch

from recbole_edt.errors import ConfigError
from recbole_edt.evaluation.metrics import metric_names, register_metric, summarise
from recbole_edt.evaluation.ranking import count_not_below

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("target", "candidates", "count"),
    [
        (2.0, [1.0, 0.0, -1.0], 0),
        (2.0, [3.0, 0.0, 2.5], 2),
        (2.0, [2.0, 2.0, 1.0], 2),  # ties
        (2.0, [NAN, 1.0, 1.0], 1),  # a candidate without a score
        (NAN, [0.0, -INF, INF], 3),  # a target without one
        (NAN, [NAN, NAN, NAN], 3),
        (INF, [INF, 0.0, 0.0], 1),
        (-INF, [-INF, 0.0, -5.0], 3),
        (0.0, [-0.0, -1.0, -1.0], 1),
    ],
)
def test_ties_and_nan_never_win(target, candidates, count):
    assert count_not_below(torch.tensor([candidates]), torch.tensor([target])).tolist() == [count]


def test_values_computed_by_hand():
    # ranks 1, 2, 10, 11: the last is beyond the cut
    values = summarise(np.array([1, 2, 10, 11]), metric_names(["Hit", "NDCG", "MRR"], [1, 10]))
    assert values["hit@1"] == 0.25
    assert values["hit@10"] == 0.75
    assert values["ndcg@1"] == 0.25
    assert values["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4)
    assert values["mrr@10"] == pytest.approx((1 + 1 / 2 + 1 / 10) / 4)
    assert values["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 4)
    assert values["n"] == 4
    assert summarise(np.zeros(0, dtype=np.int64), ["hit@10"]) == {"hit@10": 0.0, "n": 0}


def test_names():
    assert metric_names(["Hit", "ndcg"], [5, 10]) == ["hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr"]
    with pytest.raises(ConfigError, match=r"unknown metric 'AUC' \(known: hit, ndcg, mrr\)"):
        metric_names(["AUC"], [10])


def test_a_metric_can_be_added(monkeypatch):
    monkeypatch.setattr("recbole_edt.evaluation.metrics.METRICS", {})
    register_metric("Halving", lambda ranks: 0.5**ranks)
    assert summarise(np.array([1, 2, 3]), ["halving@2"]) == {"halving@2": 0.25, "n": 3}
