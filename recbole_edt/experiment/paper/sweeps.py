"""One setting varied: tables 5 (way to augment), 11 (tau) and 12 (k), figure 5 (alpha)."""

from recbole_edt.experiment import pictures
from recbole_edt.experiment.base import register_experiment
from recbole_edt.experiment.context import ExperimentContext, grid
from recbole_edt.experiment.runs import Runs


def llm_runs(context: ExperimentContext) -> Runs:
    """One row per way to augment; given vectors only if there are some."""
    vectors = context.variants.raw() / context.dataset / f"{context.dataset}.item_emb.npy"
    return {
        row: context.runs("LLMEDT", augment=keys)
        for row, keys in grid("llms").items()
        if keys.get("encoder") != "file" or vectors.is_file()
    }


def tau_runs(context: ExperimentContext) -> Runs:
    """One row per threshold: the paper's on the scale of its encoder, else quantiles."""
    variants = context.variants
    if variants.settings().encoder == "openai":
        rows = {f"τ = {tau:.2f}": {"tau": tau} for tau in grid("tau")}
    else:
        shares = grid("tau_quantile")
        rows = {f"τ = quantile {q:g}": variants.changes({"tau_quantile": q}) for q in shares}
    return {row: context.runs("LLMEDT", augment=keys) for row, keys in rows.items()}


def k_runs(context: ExperimentContext) -> Runs:
    """One row per k."""
    variants, sizes = context.variants, grid("k")
    # retrieval proposes one item by default: then every k would keep the same
    retrieves = variants.settings().generator == "retrieval"
    proposed = {"num": max(sizes)} if retrieves else {}
    return {
        f"k = {k}": context.runs("LLMEDT", augment=variants.changes({"k": k, **proposed}))
        for k in sizes
    }


def alpha_runs(context: ExperimentContext) -> Runs:
    """One row per weight."""
    return {f"α = {w:g}": context.runs("LLMEDT", {"align_weight": w}) for w in grid("alpha")}


register_experiment(
    "llm",
    "Encoders and generators",
    "table 5",
    runs=llm_runs,
    text="The embedded defaults, which need no network. For an LLM of your choice add a row to "
    "`properties/experiment/grids.yaml`.",
)
register_experiment("tau", "Threshold τ of the filter", "table 11", runs=tau_runs)
register_experiment(
    "k",
    "Items kept per user, k",
    "table 12",
    runs=k_runs,
    text="Where items are retrieved, the largest k of them are proposed per direction, not the "
    "default number.",
)
register_experiment(
    "alpha",
    "Weight α of the alignment",
    "figure 5",
    runs=alpha_runs,
    draw=pictures.lines,
    text="The paper shows a rise and a fall with the best α about 0.7 for cloth and 1.0 for sport, "
    "and prints no figures.",
)
