"""Figure 3: t-SNE of the items' text vectors, before and after augmentation."""

import numpy as np
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from recbole_edt.experiment import base, pictures
from recbole_edt.experiment.page import Picture
from recbole_edt.io.files import read_table

_POINTS = 700  # items of each kind that the map shows, at most


def map_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Draw the map; measure how near each kind of item is to the other domain."""
    vectors = np.load(context.augmented(".item_emb.npy")).astype(np.float32)
    items = read_table(context.augmented(".item"))
    inter = read_table(context.augmented(".inter"))
    domains = sorted(items["domain"].unique())
    raw, is_in = items["generated"] != "1", {name: items["domain"] == name for name in domains}
    inserted = items["item_id"].isin(inter.loc[inter["augmented"] == "1", "item_id"])
    kinds = {name: is_in[name] & raw for name in domains}
    kinds |= {f"{name}, inserted": is_in[name] & inserted for name in domains}
    rng = np.random.default_rng(0)
    rows = {kind: rng.permutation(np.flatnonzero(mask))[:_POINTS] for kind, mask in kinds.items()}
    chosen = np.concatenate(list(rows.values()))
    projection = TSNE(
        metric="cosine",
        init="pca" if len(chosen) > 50 else "random",
        perplexity=min(30.0, (len(chosen) - 1) / 3),
        random_state=0,
    ).fit_transform(vectors[chosen])
    parts = np.split(projection, np.cumsum([len(of_kind) for of_kind in rows.values()])[:-1])
    places = dict(zip(rows, parts, strict=True))

    unit = normalize(vectors)
    title = f"{context.dataset}: mean best cosine with the items of the other domain"
    table = base.Table(title, domains, ranked=False)
    for name, other in zip(domains, domains[::-1], strict=True):
        for row, kind in (("all items", name), ("inserted items", f"{name}, inserted")):
            if len(rows[kind]):
                best = (unit[rows[kind]] @ unit[rows[other]].T).max(axis=1)
                table.add(row, name, [float(best.mean())])
    means = table.means()
    told = "; ".join(
        f"{name}: {int(kinds[f'{name}, inserted'].sum()):,} items, "
        f"{means.at['inserted items', name]:.2f} (all items: {means.at['all items', name]:.2f})"
        for name in domains
        if len(rows[f"{name}, inserted"])
    )
    told = f"How near inserted items are to the other domain (mean best cosine): {told or 'none'}."
    svg = pictures.item_map(
        {name: places[name] for name in domains},
        {name: places[f"{name}, inserted"] for name in domains},
    )
    caption = (
        f"{context.dataset}: t-SNE of the items' text vectors, at most {_POINTS} of each kind. "
        "Shades: densities of the domains; points: items that were inserted into sequences. "
        "Both panels have the same axes."
    )
    picture = Picture(svg, caption, f"Two maps of items. {told}")
    return base.Page(text=[told], tables=[table], pictures={"map": picture})


base.register_experiment(
    "map", "Map of the items", "figure 3", lay_out=map_page,
    text="Inserted items are to be bridges between the domains. The embedded generator proposes "
    "items that exist, an LLM also new ones.",
)  # fmt: skip
