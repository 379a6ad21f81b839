"""Table 6: what the LLM cost per user, or would cost by an estimate that asks nothing."""

from collections.abc import Mapping
from typing import Any

from recbole_edt.experiment.base import ExperimentContext, Page, Runs, Table, register_experiment


def cost_page(context: ExperimentContext, runs: Runs) -> Page:
    """Lay out costs per stage."""
    columns = ["requests", "tokens in", "tokens out", "dollars", "dollars per user"]
    table = Table(f"{context.dataset}: cost per stage", columns, digits=6, ranked=False)
    users = len(context.histories.users)
    for stage, cost in context.variants.report()["cost"].items():
        table.add_row(f"spent: {stage}", _figures(cost, users))
    openai = {"encoder": "openai", "generator": "openai", "profiler": "openai"}
    for cost in context.variants.estimate(openai):
        table.add_row(f"estimate: {cost['stage']}", _figures(cost, users))
    return Page(tables=[table])


def _figures(cost: Mapping[str, Any], users: int) -> list[float]:
    requests = cost.get("requests", cost.get("calls", 0))
    tokens = [cost["prompt_tokens"], cost["completion_tokens"]]
    return [requests, *tokens, cost["dollars"], cost["dollars"] / users]


register_experiment(
    "cost",
    "Cost of preprocessing",
    "table 6",
    lay_out=cost_page,
    text="*Spent* is what the data in use cost; the embedded defaults ask no LLM and cost nothing. "
    "*Estimate* is a dry run with the default endpoint of `augment`: nothing is asked.",
)
