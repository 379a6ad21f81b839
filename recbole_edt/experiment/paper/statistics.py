"""Table 7: statistics before and after augmentation; figure 1: users by r before and after."""

from recbole_edt.experiment.base import (
    ExperimentContext,
    Page,
    Runs,
    Table,
    pictures,
    register_experiment,
)


def statistics_page(context: ExperimentContext, runs: Runs) -> Page:
    """Lay out users, items and rows."""
    found = context.variants.report()["statistics"]
    domains = list(found["before"]["items"])
    columns = [f"{domain} {what}" for what in ("users", "items") for domain in domains]
    columns += ["rows", "rows per user", "users of both domains"]
    table = Table(f"{context.dataset}: statistics", columns, digits=2, ranked=False)
    for when in ("before", "after"):
        part = found[when]
        counts = [*part["users_per_domain"].values(), *part["items"].values(), part["rows"]]
        table.add_row(when, [*counts, part["average_length"], part["users_of_both_domains"]])
    return Page(tables=[table])


def imbalance_page(context: ExperimentContext, runs: Runs) -> Page:
    """Lay out shares of users by r."""
    found = context.variants.report()["statistics"]
    shares = {when: found[when]["imbalance"] for when in ("before", "after")}
    title = f"{context.dataset}: share of users by r"
    table = Table(title, list(shares["before"]), ranked=False)
    for when, values in shares.items():
        table.add_row(when, values.values())
    picture = pictures.histogram(shares, "domain ratio r", "users (%)")
    return Page(tables=[table], pictures={"imbalance": picture})


register_experiment("statistics", "Statistics of the data", "table 7", lay_out=statistics_page)
register_experiment(
    "imbalance",
    "Imbalance of the domains",
    "figure 1",
    lay_out=imbalance_page,
    text="r = |nA - nB| / (nA + nB) over all rows of a user, inserted ones included.",
)
