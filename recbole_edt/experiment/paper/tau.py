"""Table 11: threshold of the filter."""

from recbole_edt.experiment.base import ExperimentContext, Runs, grid, register_experiment


def tau_runs(context: ExperimentContext) -> Runs:
    """One row per threshold: the paper's on the scale of its encoder, else quantiles."""
    variants = context.variants
    if variants.settings().encoder == "openai":
        rows = {f"τ = {tau:.2f}": {"tau": tau} for tau in grid("tau")}
    else:
        shares = grid("tau_quantile")
        rows = {f"τ = quantile {q:g}": variants.changes({"tau_quantile": q}) for q in shares}
    return {row: context.runs("LLMEDT", augment=keys) for row, keys in rows.items()}


register_experiment("tau", "Threshold τ of the filter", "table 11", runs=tau_runs)
