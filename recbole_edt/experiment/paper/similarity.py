"""Table 3: how far users' mean item vectors move when a share of the items is injected."""

from recbole_edt.experiment.base import ExperimentContext, Page, Runs, Table, register_experiment


def similarity_page(context: ExperimentContext, runs: Runs) -> Page:
    """Lay out what augmenting the data reported."""
    found = context.variants.report()["similarity"]
    title = f"{context.dataset}: cosine before and after injection"
    table = Table(title, list(found), ranked=False)
    table.add_row("cosine", found.values())
    return Page(tables=[table])


register_experiment(
    "similarity",
    "Similarity by inject ratio",
    "table 3",
    lay_out=similarity_page,
    text="Mean over augmented users of the cosine between the mean of their training items' text "
    "vectors before and after injection.",
)
