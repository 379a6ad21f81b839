"""What augmenting the data reported: tables 3 (similarity), 6 (cost), 7 (statistics), figure 1."""

import pandas as pd

from recbole_edt.experiment import base, pictures
from recbole_edt.experiment.page import Picture


def similarity_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Lay out how far users' mean item vectors move when a share of the items is injected."""
    found = context.variants.report()["similarity"]
    title = f"{context.dataset}: cosine before and after injection"
    table = base.Table(title, list(found), ranked=False)
    told = f"With all proposed items the mean moves to a cosine of {[*found.values()][-1]:.4f}."
    return base.Page(text=[told], tables=[table.add_rows({"cosine": found.values()})])


def cost_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Lay out what the LLM cost per stage, or would cost by an estimate."""
    columns = [
        "requests", "calls", "tokens in", "cached", "tokens out", "re-asks", "faults", "dollars",
        "dollars per user",
    ]  # fmt: skip
    table = base.Table(f"{context.dataset}: cost per stage", columns, digits=None, ranked=False)
    openai = {"encoder": "openai", "generator": "openai", "profiler": "openai"}
    stages = {f"spent: {name}": cost for name, cost in context.variants.report()["cost"].items()}
    estimates = pd.DataFrame(context.variants.estimate(openai)).groupby("stage", sort=False)
    asked = estimates.sum(numeric_only=True).to_dict("index")  # items, new items, and profiles
    stages |= {f"estimate: {name}": cost for name, cost in asked.items()}
    for row, cost in stages.items():
        figures = [cost["requests"], cost["calls"], cost["prompt_tokens"]]
        figures += [cost.get("cached_tokens", 0), cost["completion_tokens"]]
        figures += [cost.get("reasks", 0), sum(cost.get("faults", {}).values()), cost["dollars"]]
        per_user = cost["dollars"] / len(context.histories.users)
        table.add_rows({row: [*figures, per_user]})
    spent, estimated = (
        sum(of["dollars"] for row, of in stages.items() if row.startswith(kind))
        for kind in ("spent", "estimate")
    )
    told = f"In all {spent:.2f} dollars were spent; an LLM would cost about {estimated:.2f}."
    return base.Page(text=[told], tables=[table])


def statistics_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Lay out users, items and rows."""
    found = context.variants.report()["statistics"]
    domains = list(found["before"]["items"])
    columns = [f"{domain} {what}" for what in ("users", "items") for domain in domains]
    columns += ["rows", "rows per user", "users of both domains"]
    table = base.Table(f"{context.dataset}: statistics", columns, digits=None, ranked=False)
    for when in ("before", "after"):
        part = found[when]
        counts = [*part["users_per_domain"].values(), *part["items"].values(), part["rows"]]
        figures = [*counts, part["average_length"], part["users_of_both_domains"]]
        table.add_rows({when: figures})
    before, after = found["before"]["rows"], found["after"]["rows"]
    told = f"Augmentation inserts {after - before:,} rows, {(after - before) / before:.1%} more."
    return base.Page(text=[told], tables=[table])


def imbalance_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Lay out shares of users by r."""
    found = context.variants.report()["statistics"]
    shares = {when: found[when]["imbalance"] for when in ("before", "after")}
    title = f"{context.dataset}: share of users by r"
    table = base.Table(title, list(shares["before"]), ranked=False)
    table.add_rows({when: values.values() for when, values in shares.items()})
    last = list(shares["before"])[-1]
    before, after = (shares[when][last] for when in ("before", "after"))
    told = f"Users with r of {last}: {before:.1%} before augmentation, {after:.1%} after it."
    svg = pictures.shares(shares, "users (%)", "domain ratio r")
    picture = Picture(svg, f"{title}, in percent.", f"Bars, one for each range of r. {told}")
    return base.Page(text=[told], tables=[table], pictures={"imbalance": picture})


base.register_experiment(
    "similarity", "Similarity by inject ratio", "table 3", lay_out=similarity_page,
    text="Mean over augmented users of the cosine between the mean of their training items' text "
    "vectors before and after injection.",
)  # fmt: skip
base.register_experiment(
    "cost", "Cost of preprocessing", "table 6", lay_out=cost_page,
    text="*Spent* is what the data in use cost; the embedded defaults ask no LLM and cost nothing. "
    "*Estimate* is a dry run with the default endpoint of `augment`: nothing is asked.",
)  # fmt: skip
base.register_experiment("statistics", "Statistics of the data", "table 7", lay_out=statistics_page)
base.register_experiment(
    "imbalance", "Imbalance of the domains", "figure 1", lay_out=imbalance_page,
    text="r = |nA - nB| / (nA + nB) over all rows of a user, inserted ones included.",
)  # fmt: skip
