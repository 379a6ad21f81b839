"""Tables of results files: one per protocol, and one of parameters and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recbole_edt.experiment.tables import Table, escape_markdown

FEW = 10  # users, of whom fewer say too little

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Row -> results files, one per seed."""


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Name the figures of a report as the paper's columns: ``cloth H@10``, ``overall N@10``, ...

    Other metrics have RecBole's names. The untruncated MRR, which no table of the paper has, stays
    in the results files. Parts without a user have no figures.
    """
    return {
        f"{part} {metric_label(metric)}": value
        for part, values in _parts(report).items()
        for metric, value in values.items()
        if values["n"] and metric not in ("n", "mrr")
    }


def _parts(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Metrics of each domain, and last of ``overall``."""
    return {**report["domains"], "overall": report["overall"]}


def metric_label(metric: str) -> str:
    """Name a metric such as ``ndcg@10`` as tables do: ``N@10``, others as RecBole does."""
    from recbole.evaluator.register import metrics_dict

    name, at, k = metric.partition("@")
    known = {key: value.__name__ for key, value in metrics_dict.items()} | {"hit": "H", "ndcg": "N"}
    return f"{known.get(name, name)}{at}{k}"


def reports_table(title: str, reports: Results, ours: str | None = None) -> Table:
    """Make a table of reports, row -> ``{"overall": {...}, "domains": {name: {...}}}`` per seed."""
    from recbole_edt.evaluation.metrics import smaller_is_better

    by_row = {row: [figures(report) for report in found] for row, found in reports.items()}
    columns = list(dict.fromkeys(c for found in by_row.values() for one in found for c in one))
    table = Table(title, columns, ours=ours)
    table.smaller = {column for column in columns if smaller_is_better(column.split()[-1])}
    for row, found in by_row.items():
        for column in columns:
            table.add(row, column, [one[column] for one in found if column in one])
        for report in reports[row]:
            small = {part for part, values in _parts(report).items() if values["n"] < FEW}
            table.few |= {(row, c) for c in columns if c.rpartition(" ")[0] in small}
    return table


def protocol_tables(results: Results, title: str, ours: str | None = None) -> list[Table]:
    """Make one table per protocol, whose title begins with ``title``; test the lead of ``ours``."""
    found = [one for of_row in results.values() for one in of_row]
    tables = []
    for mode in dict.fromkeys(mode for one in found for mode in one["protocols"]):
        reports = {
            row: [one["protocols"][mode]["test"] for one in of_row if mode in one["protocols"]]
            for row, of_row in results.items()
        }
        tables.append(reports_table(f"{title}, test, {mode}", reports, ours))
        tables[-1].digits = max(one["params"].get("metric_decimal_place", 4) for one in found)
        tables[-1].notes += describe_additions(results)
    if tables:
        tables[0].notes = describe_runs(results) + tables[0].notes
    return tables


_ADDITIONS = {
    "history_weight": ("the history term", "every model with item vectors"),
    "recency_half_life": ("weights of training targets by their age", "every model of the plugin"),
}
"""What others than LLMEDT may have, too: its name, and which models can have it."""


def describe_additions(results: Results) -> list[str]:
    """Note which rows have the history term or weights by age, where others have them not."""
    notes = []
    for key, (name, models) in _ADDITIONS.items():
        rows = [row for row, found in results.items()
                if any(one["params"].get(key, 0) != 0 for one in found)]  # fmt: skip
        if len(rows) not in (0, len(results)):
            told = escape_markdown(", ".join(rows))
            notes.append(f"With {name}: only {told}. `--{key}=auto` gives it to "
                         f"{models}, `--{key}=0` to none.")  # fmt: skip
    return notes


def describe_runs(results: Results) -> list[str]:
    """Note the seeds, what decided the best epoch, and which runs ended by ``time_limit``."""
    every = [one for of_row in results.values() for one in of_row]
    seeds = sorted({one["seed"] for one in every})
    told = _listed(seeds)
    notes = [f"Means over seeds {told}; ± sample standard deviation." if seeds[1:]
             else f"One seed, {told}: no deviation, no test."]  # fmt: skip
    deciding = {(one["params"]["valid_metric"], one["params"]["eval_args"]["mode"]["valid"])
                for one in every}  # fmt: skip
    told = " or ".join(f"{metric} ({mode})" for metric, mode in sorted(deciding))
    notes.append(f"The best epoch is chosen by {told} on validation.")
    cut = []
    for row, found in results.items():
        mine = sorted(one["seed"] for one in found)
        if mine and mine != seeds:
            notes.append(f"{escape_markdown(row)}: seeds {_listed(mine)} only.")
        if epochs := [one["timing"]["epochs"] for one in found if _ended_by_budget(one)]:
            cut.append(f"{escape_markdown(row)} ({_listed(epochs)})")
    if cut:
        limits = {one["params"]["time_limit"] for one in every if _ended_by_budget(one)}
        budget = " or ".join(f"{limit:g}" for limit in sorted(limits))
        notes.append(f"Ended by the budget of {budget} s of training "
                     f"(after so many epochs): {', '.join(cut)}.")  # fmt: skip
    return notes


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _ended_by_budget(one: Mapping[str, Any]) -> bool:
    limit = one["params"].get("time_limit")
    return limit is not None and any(of["train_s"] >= limit for of in one["stages"].values())


def costs_table(dataset: str, results: Results) -> Table:
    """Parameters, training and inference time per model (table 9)."""
    measures = {
        "parameters (M)": lambda one: one["parameters"]["total"] / 1e6,
        "trained (M)": lambda one: one["parameters"]["trainable"] / 1e6,
        "epochs": lambda one: one["timing"]["epochs"],
        "s / epoch": lambda one: one["timing"]["train_s"] / max(one["timing"]["epochs"], 1),
        "ms / 1,000 users": lambda one: 1e6 * one["timing"]["test_s"] / one["test"]["overall"]["n"],
    }
    table = Table(f"{dataset}, costs", list(measures), digits=None, ranked=False)
    table.notes = [
        "Trained: of two stages, the parameters of the second; epochs and time are those of both.",
        "Inference: scoring the test users of the first protocol. Times are hardly comparable if "
        "runs shared the machine.",
    ]
    for row, found in results.items():
        for column, measure in measures.items():
            table.add(row, column, [measure(one) for one in found])
    return table
