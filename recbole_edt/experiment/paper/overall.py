"""Table 1: overall performance; table 9: parameters and time of the same runs."""

from recbole_edt.experiment.base import (
    ExperimentContext,
    Page,
    Runs,
    register_experiment,
    results_page,
)
from recbole_edt.experiment.entries import ENTRIES
from recbole_edt.experiment.layout import costs_table


def overall_runs(context: ExperimentContext) -> Runs:
    """All rows of table 1."""
    return {row: context.runs(row) for row in ENTRIES}


def overall_page(context: ExperimentContext, runs: Runs) -> Page:
    """Lay out the rows with LLM-EDT's lead and its significance."""
    return results_page("overall", context.dataset, context.results(runs), "LLMEDT")


def efficiency_page(context: ExperimentContext, runs: Runs) -> Page:
    """Lay out parameters and time."""
    return Page(tables=[costs_table(context.dataset, context.results(runs))])


register_experiment(
    "overall", "Overall performance", "table 1", runs=overall_runs, lay_out=overall_page
)
register_experiment(
    "efficiency", "Parameters and time", "table 9", runs=overall_runs, lay_out=efficiency_page
)
