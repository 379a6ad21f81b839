"""Table 10: the backbone alone, and models on it."""

from recbole_edt.experiment.base import OURS, ExperimentContext, Runs, register_experiment

MODELS = {"LLMCDSR": "LLMCDSR", "LLM4CDSR": "LLM4CDSR", OURS: "LLMEDT"}
"""Label -> model."""


def backbone_runs(context: ExperimentContext) -> Runs:
    """Per backbone, itself and every model on it."""
    out: Runs = {}
    for name in ("GRU4Rec", "BERT4Rec"):
        out[name] = context.runs(f"{name}*")
        for label, model in MODELS.items():
            out[f"{name} + {label}"] = context.runs(model, {"backbone": name.lower()})
    return out


register_experiment(
    "backbone",
    "Backbones",
    "table 10",
    runs=backbone_runs,
    text="GRU4Rec and BERT4Rec by themselves are trained with ids on all positions at once: the "
    "rows `GRU4Rec*` and `BERT4Rec*` of `compare`.",
)
