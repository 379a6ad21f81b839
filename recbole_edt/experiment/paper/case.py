"""Figure 6: the user whom augmentation helped most."""

import pandas as pd

from recbole_edt.experiment.base import (
    OURS,
    ExperimentContext,
    Page,
    Runs,
    Table,
    pictures,
    register_experiment,
)
from recbole_edt.experiment.paper.groups import ratio_runs
from recbole_edt.io.files import read_table

_SHOWN = 14
"""Rows of the history that the picture shows, at most."""


def case_page(context: ExperimentContext, runs: Runs) -> Page:
    """Draw the user's sequence; report the rank of the target with and without augmentation."""
    ranks = _ranks(context, runs)
    gains = 1 / ranks[OURS] - 1 / ranks["w/o Aug."]
    if not (gains > 0).any():
        return Page(text=["No augmented user is ranked better with augmentation than without it."])
    user = gains.idxmax()
    table = Table(
        f"{context.dataset}, user {user}: rank of the target", ["rank"], digits=0, ranked=False
    )
    for row, rank in ranks.loc[user].items():
        table.add_row(row, [rank])
    best, other = ranks.loc[user]
    text = (
        f"User {user}: the item they chose next stands at place {best} with augmentation and at "
        f"place {other} without it, among the sampled candidates."
    )
    return Page(text=[text], tables=[table], pictures={"case": _picture(context, user)})


def _ranks(context: ExperimentContext, runs: Runs) -> pd.DataFrame:
    """Rank of the target of each augmented user, by row; empty unless both runs are done."""
    ranks = {}
    for row, done in context.results(runs).items():
        if not done:
            return pd.DataFrame(columns=list(runs), dtype=int)
        found = context.store.ranks(runs[row][0])
        ranks[row] = pd.Series(found[f"test_{done[0]['protocol']}"], index=found["users"])
    inter = read_table(context.augmented(".inter"))
    augmented = inter.loc[inter["augmented"] == "1", "user_id"]
    return pd.DataFrame(ranks).loc[lambda frame: frame.index.isin(augmented)]


def _picture(context: ExperimentContext, user: str):
    inter, items = read_table(context.augmented(".inter")), read_table(context.augmented(".item"))
    domains = sorted(items["domain"].unique())
    titles = items["title"].str.strip() if "title" in items else pd.Series("", items.index)
    items["title"] = titles.where(titles != "", items["item_id"])
    mine = inter[inter["user_id"] == user].astype({"position": float})
    mine = mine.sort_values("position", kind="stable").merge(items, on="item_id", how="left")
    steps = [
        (title, domains.index(domain), augmented == "1")
        for title, domain, augmented in zip(
            mine["title"], mine["domain"], mine["augmented"], strict=True
        )
    ]
    *history, target = steps
    return pictures.sequence(history[-_SHOWN:], target[:2], domains)


register_experiment("case", "Case study", "figure 6", runs=ratio_runs, lay_out=case_page)
