"""Figure 6: the user whom augmentation helped most."""

import pandas as pd

from recbole_edt.experiment import pictures
from recbole_edt.experiment.base import OURS, Page, register_experiment
from recbole_edt.experiment.context import ExperimentContext
from recbole_edt.experiment.paper.groups import ratio_runs
from recbole_edt.experiment.runs import Runs
from recbole_edt.experiment.tables import Table
from recbole_edt.io.files import read_table

_SHOWN = 14  # rows of the history that the picture shows, at most


def case_page(context: ExperimentContext, runs: Runs) -> Page:
    """Draw the user's sequence; report the rank of the target with and without augmentation."""
    inter, items = read_table(context.augmented(".inter")), read_table(context.augmented(".item"))
    ranks = pd.DataFrame(index=inter.loc[inter["augmented"] == "1", "user_id"].unique())
    for row, done in context.results(runs).items():
        mine = pd.Series(dtype=float)
        if done:
            found = context.store.ranks(runs[row][0])
            mine = pd.Series(found[f"test_{done[0]['protocol']}"], index=found["users"])
        ranks[row] = mine
    ranks = ranks.dropna().astype(int)  # only users with both
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
    domains = sorted(items["domain"].unique())
    titles = items["title"].str.strip() if "title" in items else pd.Series("", items.index)
    items["title"] = titles.where(titles != "", items["item_id"])
    rows = inter[inter["user_id"] == user].astype({"position": float})
    rows = rows.sort_values("position", kind="stable").merge(items, on="item_id", how="left")
    steps = zip(
        rows["title"], rows["domain"].map(domains.index), rows["augmented"] == "1", strict=True
    )
    picture = pictures.sequence(list(steps)[-_SHOWN - 1 :], domains)
    return Page(text=[text], tables=[table], pictures={"case": picture})


register_experiment("case", "Case study", "figure 6", runs=ratio_runs, lay_out=case_page)
