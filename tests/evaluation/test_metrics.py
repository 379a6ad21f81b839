"""Metrics: hand-computed values; what cannot be computed is refused."""

import math
from collections import Counter

import numpy as np
import pytest
from recbole.evaluator import AbstractMetric, register
from recbole.utils import EvaluatorType

from recbole_edt.config import EDTConfig
from recbole_edt.errors import ConfigError
from recbole_edt.evaluation.metrics import RankMetrics, register_metric, smaller_is_better


def metrics_of(mode="full", **changes) -> RankMetrics:
    return RankMetrics(config(mode, **changes), mode)


def config(mode="full", **changes) -> EDTConfig:
    return EDTConfig("SASRec", "cloth_sport", None, {"eval_args.mode": mode, **changes})


def test_ranks_by_hand():
    """Ranks 1, 2, 10 and 11: the last is beyond the cut."""
    metrics = metrics_of("uni100", topk=[1, 10], metrics=[
        "Hit", "NDCG", "MRR", "Recall", "Precision", "MAP", "GAUC"])  # fmt: skip
    values = metrics.evaluate(np.array([1, 2, 10, 11]), n_candidates=np.array([101, 101, 11, 11]))
    assert list(values) == [*metrics.names, "n"]
    assert values == pytest.approx({
        "hit@1": 1 / 4, "hit@10": 3 / 4, "recall@1": 1 / 4, "recall@10": 3 / 4,
        "precision@1": 1 / 4, "precision@10": 3 / 40,
        "ndcg@1": 1 / 4, "ndcg@10": (1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4,
        "mrr@1": 1 / 4, "mrr@10": (1 + 1 / 2 + 1 / 10) / 4,
        "map@1": 1 / 4, "map@10": (1 + 1 / 2 + 1 / 10) / 4,
        "gauc": (1 + 99 / 100 + 1 / 10 + 0) / 4,  # shares of the others that the target beats
        "mrr": (1 + 1 / 2 + 1 / 10 + 1 / 11) / 4, "n": 4,
    }, abs=1e-15)  # fmt: skip
    assert set(metrics.evaluate(np.zeros(0, dtype=np.int64)).values()) == {0}


def test_lists_by_hand():
    asked = ["ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage"]
    metrics = metrics_of(metrics=asked, topk=[1, 2], valid_metric="Hit@1", tail_ratio=2)
    assert metrics.list_length == 2
    counts = {"data.num_items": 5, "data.count_items": Counter({1: 7, 2: 2, 3: 1})}
    lists = np.array([[1, 2], [1, 3], [1, 4]])
    values = metrics.evaluate(np.array([1, 9, 9]), lists=lists, counts=counts)
    entropy = (0.5 * math.log(2) + 3 * math.log(6) / 6) / 4
    assert values == pytest.approx({
        "itemcoverage@1": 1 / 5, "itemcoverage@2": 4 / 5,
        "averagepopularity@1": 7, "averagepopularity@2": (9 + 8 + 7) / 6,
        "shannonentropy@1": 0, "shannonentropy@2": entropy,
        # counts 0, 0, 0, 0, 3 and 0, 1, 1, 1, 3, weighed by -4, -2, 0, 2, 4
        "giniindex@1": 12 / 15, "giniindex@2": (-2 + 2 + 12) / 30,
        "tailpercentage@1": 0, "tailpercentage@2": 2 / 6,  # items of at most two rows
        "hit@1": 1 / 3, "mrr": (1 + 2 / 9) / 3, "n": 3,
    }, abs=1e-15)  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "topk", "valid", "names"),
    [
        (["Hit", "ndcg"], [5, 10], "NDCG@10", ["hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr"]),
        ("recall", 5, "MRR", ["recall@5", "mrr"]),
        (["Hit"], [10], "hit@7", ["hit@10", "hit@7", "mrr"]),
        (["Hit"], [10], "MAP@7", ["hit@10", "map@7", "mrr"]),
        (["Hit"], [10], "MRR@10", ["hit@10", "mrr@10", "mrr"]),
        (["Hit", "GAUC"], [10], "gauc", ["hit@10", "gauc", "mrr"]),
        (["GiniIndex"], [1], "GAUC", ["giniindex@1", "gauc", "mrr"]),
    ],
)
def test_what_is_asked_is_reported_and_what_validates(metrics, topk, valid, names):
    assert metrics_of(metrics=metrics, topk=topk, valid_metric=valid).names == names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["Recal"]}, "metrics must be .* not 'Recal', did you mean 'Recall'"),
        ({"metrics": ["AUC"]}, "AUC needs data.label and rec.score, but held-out items are ranked"),
        ({"metrics": ["Hit", "RMSE"]}, "RMSE needs data.label and rec.score"),
        ({"valid_metric": "LogLoss"}, "LogLoss needs data.label and rec.score"),
        ({"valid_metric": "GAUC@10"}, "valid_metric must be .*hit@10.* not 'GAUC@10'"),
        ({"metrics": ["ItemCoverage"]}, "ItemCoverage needs .* eval_args.mode=full"),
        ({"valid_metric": "GiniIndex@10", "report_modes": ["full"]}, "GiniIndex@10 needs .*full"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config("uni100", **changes)


def test_lists_beside_sampled_candidates_are_those_of_the_full_protocol():
    keys = {"metrics": ["Hit", "ItemCoverage"], "report_modes": ["full"]}
    made = config("uni100", **keys)
    sampled, full = (RankMetrics(made, mode) for mode in ("uni100", "full"))
    assert (sampled.names, sampled.list_length) == (["hit@10", "ndcg@10", "mrr"], 0)
    assert full.names == ["hit@10", "itemcoverage@10", "ndcg@10", "mrr"] and full.list_length == 10


def test_a_registered_metric_is_found_by_its_name(monkeypatch):
    for table in (register.metrics_dict, register.metric_information, register.metric_types):
        monkeypatch.setitem(table, "worstrank", None)  # as it was, afterwards

    @register_metric
    class WorstRank(AbstractMetric):
        metric_type, metric_need, smaller = EvaluatorType.RANKING, ["rec.meanrank"], True

        def calculate_metric(self, dataobject):
            return {"worstrank": dataobject.get("rec.meanrank")[:, 0].max().item()}

    made = config("uni100", metrics=["Hit"], topk=[3], valid_metric="WorstRank")
    assert made["valid_metric_bigger"] is False
    assert smaller_is_better("WorstRank") and not smaller_is_better("hit@3")
    values = RankMetrics(made, "uni100").evaluate(np.array([2, 3, 8]), np.array([9, 9, 9]))
    assert values["worstrank"] == 8
    register.smaller_metrics.remove("worstrank")
