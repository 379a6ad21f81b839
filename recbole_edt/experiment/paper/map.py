"""Figure 3: t-SNE of the items' text vectors, before and after augmentation."""

import numpy as np
from sklearn.manifold import TSNE

from recbole_edt.experiment import base, pictures
from recbole_edt.io.files import read_table

_POINTS = 700  # items of each kind that the map shows, at most


def map_page(context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Draw the map; measure how near each kind of item is to the other domain."""
    vectors = np.load(context.augmented(".item_emb.npy")).astype(np.float32)
    items = read_table(context.augmented(".item"))
    inter = read_table(context.augmented(".inter"))
    domains = sorted(items["domain"].unique())
    kinds = {name: (items["domain"] == name) & (items["generated"] != "1") for name in domains}
    kinds["inserted"] = items["item_id"].isin(inter.loc[inter["augmented"] == "1", "item_id"])
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
    after = dict(zip(rows, parts, strict=True))
    before = {name: after[name] for name in domains}

    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    title = f"{context.dataset}: mean best cosine with the items of"
    table = base.Table(title, domains, ranked=False)
    for kind, of_kind in rows.items():
        for domain in domains:
            if kind != domain and len(of_kind):
                best = (unit[of_kind] @ unit[rows[domain]].T).max(axis=1)
                table.add(kind, domain, [float(best.mean())])
    picture = pictures.item_map({"before": before, "after": after})
    return base.Page(tables=[table], pictures={"map": picture})


base.register_experiment(
    "map", "Map of the items", "figure 3", lay_out=map_page,
    text="t-SNE of the text vectors, a sample of the items. After augmentation the items that were "
    "inserted into sequences of the other domain are shown as well; the embedded generator "
    "proposes items that exist, an LLM also new ones.",
)  # fmt: skip
