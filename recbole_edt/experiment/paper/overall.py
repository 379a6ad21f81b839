"""Table 1: overall performance; 9: parameters and time of its runs; 10: backbones."""

from recbole_edt.experiment import base
from recbole_edt.experiment.entries import ENTRIES
from recbole_edt.experiment.layout import costs_table
from recbole_edt.experiment.tables import escape_markdown


def overall_runs(context: base.ExperimentContext) -> base.Runs:
    """All rows of table 1."""
    return {row: context.runs(row) for row in ENTRIES}


def efficiency_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Lay out parameters and time."""
    table = costs_table(context.dataset, context.results(runs))
    seconds = table.means()["s / epoch"].dropna().sort_values()
    page = base.Page(tables=[table])
    if len(seconds):
        ends = [f"{row} {table.shown(seconds[row])}" for row in seconds.index[[0, -1]]]
        page.text.append(escape_markdown(f"Seconds per epoch: {ends[0]} to {ends[1]}."))
    return page


def backbone_runs(context: base.ExperimentContext) -> base.Runs:
    """Per backbone, itself and every model on it."""
    models = {"LLMCDSR": "LLMCDSR", "LLM4CDSR": "LLM4CDSR", base.OURS: "LLMEDT"}
    out: base.Runs = {}
    for name in ("GRU4Rec", "BERT4Rec"):
        out[name] = context.runs(f"{name}*")
        for label, model in models.items():
            out[f"{name} + {label}"] = context.runs(model, {"backbone": name.lower()})
    return out


base.register_experiment(
    "overall", "Overall performance", "table 1", runs=overall_runs, ours="LLMEDT"
)
base.register_experiment(
    "efficiency", "Parameters and time", "table 9", runs=overall_runs, lay_out=efficiency_page
)
base.register_experiment(
    "backbone", "Backbones", "table 10", runs=backbone_runs,
    text="GRU4Rec and BERT4Rec by themselves are trained with ids on all positions at once: the "
    "rows `GRU4Rec*` and `BERT4Rec*` of `compare`.",
)  # fmt: skip
