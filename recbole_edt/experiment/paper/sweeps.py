"""One setting varied: tables 5 (way to augment), 11 (tau) and 12 (k), figure 5 (alpha)."""

from recbole_edt.experiment import base
from recbole_edt.experiment.context import grid


def llm_runs(context: base.ExperimentContext) -> base.Runs:
    """One row per way to augment; given vectors only if there are some."""
    vectors = context.variants.raw() / context.dataset / f"{context.dataset}.item_emb.npy"
    return {
        row: context.runs("LLMEDT", augment=keys)
        for row, keys in grid("llms").items()
        if keys.get("encoder") != "file" or vectors.is_file()
    }


def tau_runs(context: base.ExperimentContext) -> base.Runs:
    """One row per threshold: the paper's on the scale of its encoder, else quantiles."""
    if context.variants.settings().encoder == "openai":
        rows = {f"τ = {tau:.2f}": {"tau": tau} for tau in grid("tau")}
    else:
        rows = {f"τ = quantile {q:g}": {"tau_quantile": q} for q in grid("tau_quantile")}
    return {row: context.runs("LLMEDT", augment=keys) for row, keys in rows.items()}


def k_runs(context: base.ExperimentContext) -> base.Runs:
    """One row per k."""
    # with fewer proposals than k, further ones would keep the same
    num = max(context.variants.settings().num or 0, *grid("k"))
    return {f"k = {k}": context.runs("LLMEDT", augment={"k": k, "num": num}) for k in grid("k")}


def alpha_runs(context: base.ExperimentContext) -> base.Runs:
    """One row per weight."""
    return {f"α = {w:g}": context.runs("LLMEDT", {"align_weight": w}) for w in grid("alpha")}


base.register_experiment(
    "llm", "Encoders and generators", "table 5", runs=llm_runs,
    text="The embedded defaults, which need no network. For an LLM of your choice add a row to "
    "`properties/experiment/grids.yaml`.",
)  # fmt: skip
base.register_experiment("tau", "Threshold τ of the filter", "table 11", runs=tau_runs)
base.register_experiment(
    "k", "Items kept per user, k", "table 12", runs=k_runs,
    text="At least as many items as the largest k are proposed per direction, not the default "
    "number.",
)  # fmt: skip
base.register_experiment(
    "alpha", "Weight α of the alignment", "figure 5", runs=alpha_runs,
    text="The paper shows a rise and a fall with the best α about 0.7 for cloth and 1.0 for sport, "
    "and prints no figures.",
)  # fmt: skip
