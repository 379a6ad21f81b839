"""Metrics of ranks and of lists, by RecBole's own evaluator and metric classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from recbole.evaluator import DataStruct, Evaluator, register

from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.errors import ConfigError
from recbole_edt.evaluation.ranking import Ranking
from recbole_edt.settings import changed, nearest

# What metrics are computed from, by RecBole's names (`metric_need` of a metric class).
RANKS = frozenset({"rec.topk"})
LISTS = frozenset({"rec.items"})  # the top k of every user among all candidates
COUNTS = frozenset({"data.num_items", "data.num_users", "data.count_items", "data.count_users"})
COLLECTED = RANKS | LISTS | COUNTS | {"rec.meanrank"}

_EXACT = 16  # decimals; RecBole rounds every value to `metric_decimal_place`


def register_metric(metric: Any) -> Any:
    """Let RecBole find a metric class by its name; usable as a decorator.

    The class is a subclass of ``TopkMetric`` or ``AbstractMetric`` of ``recbole.evaluator``.
    """
    name = metric.__name__.lower()
    register.metrics_dict[name] = metric
    register.metric_information[name] = metric.metric_need
    register.metric_types[name] = metric.metric_type
    if metric.smaller and name not in register.smaller_metrics:
        register.smaller_metrics.append(name)
    return metric


def smaller_is_better(name: str) -> bool:
    """Whether a metric such as ``giniindex@10`` is better the smaller it is."""
    return name.partition("@")[0].lower() in register.smaller_metrics


def _needs(name: str) -> set[str]:
    return set(register.metric_information.get(name.partition("@")[0].lower(), ()))


def refuse_metrics(metrics: Iterable[str]) -> None:
    """Raise ConfigError for a metric that RecBole does not have, or that no ranking determines."""
    for metric in metrics:
        if metric.lower() not in register.metrics_dict:
            close = nearest(metric, (known.__name__ for known in register.metrics_dict.values()))
            raise ConfigError(f"metrics must be some that RecBole has, not '{metric}'{close}")
        if missing := _needs(metric) - COLLECTED:
            raise ConfigError(
                f"{metric} needs {' and '.join(sorted(missing))}, but held-out items are ranked "
                "among candidates, without labels to compare scores with (GAUC is the AUC of ranks)"
            )


def check_metrics(config) -> None:
    """Refuse ``metrics`` and a ``valid_metric`` that are unknown or that no mode can compute."""
    metrics, valid = config["metrics"], config["valid_metric"]
    refuse_metrics([*metrics, *([valid.partition("@")[0]] if _needs(valid) else [])])
    modes = config["eval_args"]["mode"]
    full = "full" in [*modes.values(), *(config["report_modes"] or [])]
    among_samples = [*([] if full else metrics), *([] if modes["valid"] == "full" else [valid])]
    for metric in among_samples:
        if _needs(metric) & LISTS:
            raise ConfigError(f"{metric} needs the best of all candidates: eval_args.mode=full")
    names = RankMetrics(config, modes["valid"]).names
    if valid.lower() not in names:
        raise ConfigError(f"valid_metric must be like one of {', '.join(names)}, not '{valid}'")


class RankMetrics:
    """The metrics of a run that can be computed from what there is.

    They are ``metrics`` at ``topk``, ``valid_metric``, and ``mrr``, the MRR of whole rankings.
    Values are not rounded.

    Parameters
    ----------
    mode : str
        ``full``, or ``uniN``, which has no lists.
    given : set of str
        What there is to compute metrics from.

    Attributes
    ----------
    names : list of str
        Names of the values, such as ``hit@10``.
    list_length : int
        Items per user that the metrics look at; 0 if they look at ranks alone.
    """

    def __init__(self, config, mode: str, given: frozenset[str] = COLLECTED) -> None:
        asked = [metric.lower() for metric in config["metrics"]]
        self._valid = config["valid_metric"].lower()
        valid, _, k = self._valid.partition("@")
        given = given if mode == "full" else given - LISTS
        metrics = [
            metric
            for metric in dict.fromkeys([*asked, *([] if self._valid == "mrr" else [valid])])
            if metric in register.metrics_dict and _needs(metric) <= given
        ]
        cut = [int(k)] if k.isdecimal() and int(k) else []
        self.topk = list(dict.fromkeys([*config["topk"], *cut]))
        self.needs = set[str]().union(*map(_needs, metrics))
        self.list_length = max(self.topk) if self.needs & LISTS else 0
        exact = {"metrics": metrics, "topk": self.topk, "metric_decimal_place": _EXACT}
        self._evaluator = Evaluator(changed(config, **exact))
        # computed for `valid_metric` alone
        self._beyond = {valid, k} - {*asked, *map(str, config["topk"]), ""}
        self.names = list(self._values(**_EXAMPLE, lists=np.ones((1, max(self.topk)), int)))

    def report(
        self, ranked: np.ndarray, ranking: Ranking, dataset: CrossDomainDataset
    ) -> dict[str, Any]:
        """Evaluate all users, and those whose target is of each domain.

        ``ranked``, int64 [n_eval, 1 + list_length], is what ``ranking`` made of a model's scores.
        Returns ``{"overall": {...}, "domains": {name: {...}}}``, of what :meth:`evaluate` returns.
        """

        def part(rows, domain: int | None = None) -> dict[str, float]:
            counts = training_counts(dataset, domain) if self.needs & COUNTS else {}
            candidates = ranking.n_candidates[rows]
            return self.evaluate(ranked[rows, 0], candidates, ranked[rows, 1:], counts)

        domains = {
            name: part(ranking.target_domains == domain, domain)
            for domain, name in enumerate(ranking.domains)
        }
        return {"overall": part(slice(None)), "domains": domains}

    def evaluate(
        self,
        ranks: np.ndarray,
        n_candidates: np.ndarray | None = None,
        lists: np.ndarray | None = None,
        counts: Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """Compute the metrics of users; what no metric needs may be left out.

        Parameters
        ----------
        ranks : np.ndarray
            int64 [n]; rank of each target, from 1.
        n_candidates : np.ndarray
            int64 [n]; candidates of each user, the target among them.
        lists : np.ndarray
            int64 [n, list_length]; the items that score highest.
        counts : mapping
            As :func:`training_counts` returns them.

        Returns
        -------
        dict
            Metric -> value (0 for no users), and ``n``, the number of users.
        """
        found = self._values(ranks, n_candidates, lists, counts or {}) if len(ranks) else {}
        return {name: float(found.get(name, 0.0)) for name in self.names} | {"n": len(ranks)}

    def _values(self, ranks, n_candidates, lists, counts) -> dict[str, float]:
        struct, positives = DataStruct(), np.ones_like(ranks)
        if self.needs & RANKS:
            hits = ranks[:, None] == np.arange(1, max(self.topk) + 1)
            struct["rec.topk"] = torch.from_numpy(np.column_stack([hits, positives]))
        if "rec.meanrank" in self.needs:
            columns = [ranks, n_candidates, positives]
            struct["rec.meanrank"] = torch.from_numpy(np.column_stack(columns).astype(np.float64))
        if self.needs & LISTS:
            struct["rec.items"] = torch.from_numpy(lists)
        for name, value in counts.items():
            struct[name] = value
        values = {**self._evaluator.evaluate(struct), "mrr": np.mean(1.0 / ranks)}
        return {name: value for name, value in values.items() if self._is_asked(name)}

    def _is_asked(self, name: str) -> bool:
        return name in (self._valid, "mrr") or not self._beyond.intersection(name.split("@"))


def training_counts(dataset: CrossDomainDataset, domain: int | None = None) -> dict[str, Any]:
    """Count what metrics read of the raw training rows, of one domain or of both (``data.*``).

    As in RecBole, numbers of items and users include the padding id. Generated items, which are no
    candidates, do not count.
    """
    rows, items = dataset.train_sequences, ~dataset.item_generated
    items &= dataset.item_domain >= 0 if domain is None else dataset.item_domain == domain
    inside = ~rows.augmented & items[rows.items]
    return {
        "data.num_items": 1 + int(items.sum()),
        "data.num_users": dataset.user_num,
        "data.count_items": Counter(rows.items[inside].tolist()),
        "data.count_users": Counter(rows.users[inside].tolist()),
    }


_EXAMPLE: dict[str, Any] = {
    "ranks": np.array([1]),
    "n_candidates": np.array([2]),
    "counts": dict.fromkeys(COUNTS, 2) | {
        "data.count_items": Counter([1]), "data.count_users": Counter([1])
    },
}  # fmt: skip
"""One user, who shows which values metrics have."""
