"""Figure 6: the user whom augmentation helped most."""

import pandas as pd

from recbole_edt.experiment import base, pictures
from recbole_edt.experiment.page import Picture
from recbole_edt.experiment.paper.groups import ratio_runs
from recbole_edt.io.files import read_table

_ROWS, _BEST = 10, 3  # rows of the history and recommendations that the picture shows, at most


def case_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Draw the user's sequence, the rank of the target, and what is recommended in its domain."""
    inter, items = read_table(context.augmented(".inter")), read_table(context.augmented(".item"))
    ranks, mode = pd.DataFrame(index=inter.loc[inter["augmented"] == "1", "user_id"].unique()), ""
    for row, done in context.results(runs).items():
        mine = pd.Series(dtype=float)
        if done:
            mode, found = done[0]["protocol"], context.store.ranks(runs[row][0])
            mine = pd.Series(found[f"test_{mode}"], index=found["users"])
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
        f"place {other} without it ({mode}). Of all {len(gains):,} users with inserted rows "
        f"{(gains > 0).sum():,} are ranked better with augmentation, {(gains < 0).sum():,} worse."
    )
    title = f"{context.dataset}, user {user}: rank of the target"
    table = base.Table(title, ["rank"], digits=None, ranked=False)
    table.add_rows({base.OURS: [best], "w/o Aug.": [other]})
    domains = sorted(items["domain"].unique())
    titles = items["title"].str.strip() if "title" in items else pd.Series("", items.index)
    items["title"] = titles.where(titles != "", items["item_id"])
    rows = inter[inter["user_id"] == user].astype({"position": float})
    rows = rows.sort_values("position", kind="stable").merge(items, on="item_id", how="left")
    steps = [
        pictures.Step(row.title, domains.index(row.domain), row.augmented == "1")
        for row in rows.itertuples()
    ]
    target = rows.iloc[-1]
    recommended = {
        f"Recommended from {target.domain}, {how}": recommended_to(
            user, target, context.store.checkpoint(runs[row][0]), domains
        )
        for row, how in ((base.OURS, "after"), ("w/o Aug.", "before"))
    }
    recommended = {heading: found for heading, found in recommended.items() if found}
    steps[-1] = steps[-1]._replace(chosen=True)
    svg = pictures.sequence(steps[-_ROWS - 1 :], (other, best), recommended, domains)
    caption = f"{context.dataset}, user {user}: their sequence before and after augmentation"
    if recommended:
        caption += ", and what is recommended; an arrow names the row that carries most of a score"
    caption += "."
    picture = Picture(svg, caption, f"A list of items in the order of time. {text}")
    return base.Page(text=[text], tables=[table], pictures={"case": picture})


def recommended_to(user, target, checkpoint, domains) -> list[pictures.Step]:
    """Best items of the target's domain, before the target; none without a checkpoint."""
    if not checkpoint.is_file():
        return []
    from recbole_edt.recommend.command import explained
    from recbole_edt.recommend.recommender import Recommender

    recommender = Recommender.load(checkpoint, until="test")
    told = explained(recommender, user, k=_BEST, domain=target.domain, history=None)
    titles = told.seen["title"]
    return [
        pictures.Step(
            row.title,
            domains.index(row.domain),
            chosen=row.item_id == target.item_id,
            reason=titles[row.carriers[0][0]] if row.carriers else "",
        )
        for row in told.found.itertuples()
    ]


base.register_experiment("case", "Case study", "figure 6", runs=ratio_runs, lay_out=case_page)
