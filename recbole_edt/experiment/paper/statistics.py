"""What augmenting the data reported: tables 3 (similarity), 6 (cost), 7 (statistics), figure 1."""

from recbole_edt.experiment import pictures
from recbole_edt.experiment.base import Page, register_experiment
from recbole_edt.experiment.context import ExperimentContext
from recbole_edt.experiment.runs import Runs
from recbole_edt.experiment.tables import Table


def similarity_page(context: ExperimentContext, runs: Runs) -> Page:
    """Lay out how far users' mean item vectors move when a share of the items is injected."""
    found = context.variants.report()["similarity"]
    title = f"{context.dataset}: cosine before and after injection"
    table = Table(title, list(found), ranked=False)
    table.add_row("cosine", found.values())
    return Page(tables=[table])


def cost_page(context: ExperimentContext, runs: Runs) -> Page:
    """Lay out what the LLM cost per stage, or would cost by an estimate."""
    columns = ["requests", "tokens in", "tokens out", "dollars", "dollars per user"]
    table = Table(f"{context.dataset}: cost per stage", columns, digits=6, ranked=False)
    openai = {"encoder": "openai", "generator": "openai", "profiler": "openai"}
    stages = {f"spent: {name}": cost for name, cost in context.variants.report()["cost"].items()}
    stages |= {f"estimate: {cost['stage']}": cost for cost in context.variants.estimate(openai)}
    for row, cost in stages.items():
        requests, dollars = cost.get("requests", cost.get("calls", 0)), cost["dollars"]
        tokens = [cost["prompt_tokens"], cost["completion_tokens"]]
        table.add_row(row, [requests, *tokens, dollars, dollars / len(context.histories.users)])
    return Page(tables=[table])


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


register_experiment(
    "similarity",
    "Similarity by inject ratio",
    "table 3",
    lay_out=similarity_page,
    text="Mean over augmented users of the cosine between the mean of their training items' text "
    "vectors before and after injection.",
)
register_experiment(
    "cost",
    "Cost of preprocessing",
    "table 6",
    lay_out=cost_page,
    text="*Spent* is what the data in use cost; the embedded defaults ask no LLM and cost nothing. "
    "*Estimate* is a dry run with the default endpoint of `augment`: nothing is asked.",
)
register_experiment("statistics", "Statistics of the data", "table 7", lay_out=statistics_page)
register_experiment(
    "imbalance",
    "Imbalance of the domains",
    "figure 1",
    lay_out=imbalance_page,
    text="r = |nA - nB| / (nA + nB) over all rows of a user, inserted ones included.",
)
