"""Table 5: other encoders and generators."""

from recbole_edt.experiment.base import ExperimentContext, Runs, grid, register_experiment


def llm_runs(context: ExperimentContext) -> Runs:
    """One row per way to augment; given vectors only if there are some."""
    vectors = context.variants.raw() / context.dataset / f"{context.dataset}.item_emb.npy"
    return {
        row: context.runs("LLMEDT", augment=keys)
        for row, keys in grid("llms").items()
        if keys.get("encoder") != "file" or vectors.is_file()
    }


register_experiment(
    "llm",
    "Encoders and generators",
    "table 5",
    runs=llm_runs,
    text="The embedded defaults, which need no network. For an LLM of your choice add a row to "
    "`properties/experiment/grids.yaml`.",
)
