"""Figure 5: weight of the alignment loss."""

from recbole_edt.experiment.base import ExperimentContext, Runs, grid, pictures, register_experiment


def alpha_runs(context: ExperimentContext) -> Runs:
    """One row per weight."""
    return {f"α = {w:g}": context.runs("LLMEDT", {"align_weight": w}) for w in grid("alpha")}


register_experiment(
    "alpha",
    "Weight α of the alignment",
    "figure 5",
    runs=alpha_runs,
    draw=pictures.lines,
    text="The paper shows a rise and a fall with the best α about 0.7 for cloth and 1.0 for sport, "
    "and prints no figures.",
)
