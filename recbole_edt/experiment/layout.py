"""Tables of results files: one per protocol, and one of parameters and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_edt.experiment.tables import Table

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Row -> results files, one per seed."""


def short_name(metric: str) -> str:
    """Name a metric as the paper does: ``hit@10`` -> ``H@10``."""
    name, at, k = metric.partition("@")
    return {"hit": "H", "ndcg": "N"}.get(name, name.upper()) + at + k


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Name the figures of a report as the paper's columns: ``cloth H@10``, ``overall N@10``, ...

    The untruncated MRR, which no table of the paper has, stays in the results files.
    """
    parts = {**report["domains"], "overall": report["overall"]}
    return {
        f"{part} {short_name(metric)}": value
        for part, values in parts.items()
        for metric, value in values.items()
        if metric not in ("n", "mrr")
    }


def reports_table(title: str, reports: Results, ours: str | None = None) -> Table:
    """Make a table of reports, row -> ``{"overall": {...}, "domains": {name: {...}}}`` per seed."""
    by_row = {row: [figures(report) for report in found] for row, found in reports.items()}
    columns = list(dict.fromkeys(c for found in by_row.values() for one in found for c in one))
    table = Table(title, columns, ours=ours)
    for row, found in by_row.items():
        for column in columns:
            table.add(row, column, [one[column] for one in found if column in one])
    return table


def protocol_tables(results: Results, title: str, ours: str | None = None) -> list[Table]:
    """Make one table per protocol that runs were tested under.

    Parameters
    ----------
    results : mapping
        Row -> results files over seeds.
    title : str
        Begins the title of each table.
    ours : str, optional
        The row whose lead is tested.
    """
    modes = dict.fromkeys(
        mode for found in results.values() for one in found for mode in one["protocols"]
    )
    tables = []
    for mode in modes:
        reports = {
            row: [one["protocols"][mode]["test"] for one in found if mode in one["protocols"]]
            for row, found in results.items()
        }
        tables.append(reports_table(f"{title}, test, {mode}", reports, ours))
    if tables:
        tables[0].notes += describe_runs(results)
    return tables


def describe_runs(results: Results) -> list[str]:
    """Say in notes which seeds there are, and which runs were cut short."""
    seeds = sorted({one["seed"] for found in results.values() for one in found})
    notes = [f"Means over seeds {', '.join(map(str, seeds))}; ± sample standard deviation."]
    for row, found in results.items():
        cut = [one for one in found if was_cut(one)]
        if cut:
            limit = max(one["params"]["time_limit"] for one in cut)
            epochs = ", ".join(str(one["timing"]["epochs"]) for one in cut)
            notes.append(
                f"{row}: training ended by its budget of {limit:g} s (after {epochs} epochs)."
            )
        mine = sorted({one["seed"] for one in found})
        if mine and mine != seeds:
            notes.append(f"{row}: seeds {', '.join(map(str, mine))} only.")
    return notes


def was_cut(results: Mapping[str, Any]) -> bool:
    """Tell whether a stage of a run ended by its ``time_limit``."""
    limit = results["params"].get("time_limit")
    return limit is not None and any(
        stage["train_s"] >= limit for stage in results["stages"].values()
    )


def costs_table(dataset: str, results: Results) -> Table:
    """Parameters, training and inference time per model (table 9)."""
    columns = ["parameters (M)", "trained (M)", "epochs", "s / epoch", "ms / 1,000 users"]
    table = Table(f"{dataset}, costs", columns, digits=3, ranked=False)
    table.notes.append("Inference: scoring the test users of the first protocol. Times of runs "
                       "that shared the machine: compare them with care.")  # fmt: skip
    for row, found in results.items():
        costs = [_costs(one) for one in found]
        for number, column in enumerate(columns):
            table.add(row, column, [cost[number] for cost in costs])
    return table


def _costs(results: Mapping[str, Any]) -> tuple[float, ...]:
    parameters, timing = results["parameters"], results["timing"]
    return (
        parameters["total"] / 1e6,
        parameters["trainable"] / 1e6,
        timing["epochs"],
        timing["train_s"] / max(timing["epochs"], 1),
        1e6 * timing["test_s"] / results["test"]["overall"]["n"],
    )
