"""Figure 6: the user whom augmentation helped most."""

import pandas as pd

from recbole_edt.experiment import base, pictures
from recbole_edt.experiment.paper.groups import ratio_runs
from recbole_edt.io.files import read_table

_SHOWN = 14  # rows of the history that the picture shows, at most


def case_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Draw the user's sequence; report the rank of the target with and without augmentation."""
    inter, items = read_table(context.augmented(".inter")), read_table(context.augmented(".item"))
    ranks = pd.DataFrame(index=inter.loc[inter["augmented"] == "1", "user_id"].unique())
    for row, done in context.results(runs).items():
        mine = pd.Series(dtype=float)
        if done:
            found = context.store.ranks(runs[row][0])
            mine = pd.Series(found[f"test_{done[0]['protocol']}"], index=found["users"])
        ranks[row] = mine
    ranks = ranks.dropna().astype(int)  # of users whom both runs ranked
    gains = 1 / ranks[base.OURS] - 1 / ranks["w/o Aug."]
    if not (gains > 0).any():
        text = "No augmented user is ranked better with augmentation than without it."
        return base.Page(text=[text])
    user = gains.idxmax()
    best, other = ranks.loc[user]
    text = (
        f"User {user}: the item they chose next stands at place {best} with augmentation and at "
        f"place {other} without it, among the sampled candidates."
    )
    title = f"{context.dataset}, user {user}: rank of the target"
    table = base.Table(title, ["rank"], digits=0, ranked=False)
    table.add_rows({base.OURS: [best], "w/o Aug.": [other]})
    domains = sorted(items["domain"].unique())
    titles = items["title"].str.strip() if "title" in items else pd.Series("", items.index)
    items["title"] = titles.where(titles != "", items["item_id"])
    rows = inter[inter["user_id"] == user].astype({"position": float})
    rows = rows.sort_values("position", kind="stable").merge(items, on="item_id", how="left")
    steps = zip(
        rows["title"], rows["domain"].map(domains.index), rows["augmented"] == "1", strict=True
    )
    picture = pictures.sequence(list(steps)[-_SHOWN - 1 :], domains)
    return base.Page(text=[text], tables=[table], pictures={"case": picture})


base.register_experiment("case", "Case study", "figure 6", runs=ratio_runs, lay_out=case_page)
