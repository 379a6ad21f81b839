"""Tables 2 and 8: LLM-EDT and its seven ablations."""

from typing import Any

from recbole_edt.experiment import base

ABLATIONS: dict[str, dict[str, Any]] = {
    base.OURS: {},
    "w/o Aug.": {"augment": {"generator": "none"}},
    "w/o DFT": {"row": "LLMEDTPretrain"},
    "w/o Profiling": {"keys": {"align_weight": 0.0}},
    "w/o Filtering": {"augment": {"filter": "none"}},
    "w/o Inserting": {"augment": {"insert": "end"}},
    "Random Inserting": {"augment": {"insert": "random"}},
    "w/o S-R-A": {"augment": {"profile": "naive"}},
}
"""Row -> what differs from LLM-EDT: its model, its keys, or how its data are augmented."""


def ablation_runs(context, rows=tuple(ABLATIONS)):
    """Return the runs of some ablations."""
    return {row: context.runs(**{"row": "LLMEDT", **ABLATIONS[row]}) for row in rows}


base.register_experiment(
    "ablation", "Ablations", "tables 2 and 8", runs=ablation_runs,
    text="Without augmentation no row is inserted; without DFT the model is stage 1 alone; without "
    "profiling the alignment loss is gone; without filtering every proposal is inserted; without "
    "inserting what is proposed stands at the end of the sequence; random inserting puts it "
    "anywhere; without S-R-A one naive summary is the profile.",
)  # fmt: skip
