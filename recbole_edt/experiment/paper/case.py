"""Figure 6: the user whom augmentation helped most."""

import pandas as pd

from recbole_edt.experiment import base, pictures
from recbole_edt.experiment.page import Picture
from recbole_edt.experiment.paper.groups import ratio_runs
from recbole_edt.io.files import read_table

_PLAIN = "w/o Aug."
_SHOWN, _BEST = 10, 3  # rows of the history and recommendations that the picture shows, at most


def case_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Draw the user's sequence, the rank of the target, and what is recommended in its domain."""
    store, results = context.store, context.results(runs)
    if not all(results.values()):
        return base.Page(text=["A run failed: there is nothing to compare."])
    chosen = {row: next(filter(store.results, of_row)) for row, of_row in runs.items()}
    mode = results[base.OURS][0]["protocol"]
    saved = {row: store.ranks(run) for row, run in chosen.items()}
    ranks = pd.DataFrame(
        {row: pd.Series(found[f"test_{mode}"], found["users"]) for row, found in saved.items()}
    )
    inter, items = read_table(context.augmented(".inter")), read_table(context.augmented(".item"))
    augmented = inter.loc[inter["augmented"] == "1", "user_id"].unique()
    ranks = ranks.reindex(augmented).dropna().astype(int)
    gains = 1 / ranks[base.OURS] - 1 / ranks[_PLAIN]
    if not (gains > 0).any():
        text = "No augmented user is ranked better with augmentation than without it."
        return base.Page(text=[text])
    user = gains.idxmax()
    best, other = ranks.loc[user]
    text = (
        f"User {user}: the item they chose next has rank {best} with augmentation and rank {other} "
        f"without it ({mode}). Of all {len(gains):,} users with inserted rows "
        f"{(gains > 0).sum():,} are ranked better with augmentation, {(gains < 0).sum():,} worse."
    )
    title = f"{context.dataset}, user {user}: rank of the target"
    table = base.Table(title, ["rank"], digits=None, ranked=False)
    table.add_rows({base.OURS: [best], _PLAIN: [other]})
    domains = sorted(items["domain"].unique())
    titles = items["title"].str.strip() if "title" in items else pd.Series("", items.index)
    items["title"] = titles.where(titles != "", items["item_id"])
    rows = inter[inter["user_id"] == user].astype({"position": float})
    rows = rows.sort_values("position", kind="stable").merge(items, on="item_id", how="left")
    steps = [
        pictures.Step(row.title, domains.index(row.domain), row.augmented == "1")
        for row in rows.itertuples()
    ]
    steps[-1] = steps[-1]._replace(chosen=True)
    target, recommended = rows.iloc[-1], {}
    for row, how in ((base.OURS, "after"), (_PLAIN, "before")):
        if found := recommended_to(user, target, store.checkpoint(chosen[row]), domains):
            recommended[f"Recommended from {target.domain}, {how}"] = found
    svg = pictures.sequence(steps[-_SHOWN - 1 :], (other, best), recommended, domains)
    caption = f"{context.dataset}, user {user}: their sequence before and after augmentation"
    if recommended:
        caption += ", and what is recommended; an arrow names the row that carries most of a score"
    picture = Picture(svg, f"{caption}.", f"A list of items in the order of time. {text}")
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
