"""Table 12: items kept per user."""

from recbole_edt.experiment.base import ExperimentContext, Runs, grid, register_experiment


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


register_experiment(
    "k",
    "Items kept per user, k",
    "table 12",
    runs=k_runs,
    text="Where items are retrieved, the largest k of them are proposed per direction, not the "
    "default number.",
)
