"""Figure 3: t-SNE of the items' text vectors, before and after augmentation."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.manifold import TSNE

from recbole_edt.experiment.base import (
    ExperimentContext,
    Page,
    Runs,
    Table,
    pictures,
    register_experiment,
)
from recbole_edt.io.files import read_table

_POINTS = 700
"""Items of each kind that the map shows, at most."""


def map_page(context: ExperimentContext, runs: Runs) -> Page:
    """Draw the map; measure how near inserted items are to each domain."""
    vectors = np.load(context.augmented(".item_emb.npy")).astype(np.float32)
    items = read_table(context.augmented(".item"))
    inter = read_table(context.augmented(".inter"))
    domains = sorted(items["domain"].unique())
    kinds = {name: (items["domain"] == name) & (items["generated"] != "1") for name in domains}
    kinds["inserted"] = items["item_id"].isin(inter.loc[inter["augmented"] == "1", "item_id"])
    rng = np.random.default_rng(0)
    rows = {kind: rng.permutation(np.flatnonzero(mask))[:_POINTS] for kind, mask in kinds.items()}
    after = _project(vectors, rows)
    before = {name: after[name] for name in domains}
    return Page(
        tables=[_nearness(context.dataset, vectors, rows, domains)],
        pictures={"map": pictures.item_map({"before": before, "after": after})},
    )


def _project(vectors: np.ndarray, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One t-SNE of all kinds, float [n, 2] each."""
    chosen = np.concatenate(list(rows.values()))
    projection = TSNE(
        n_components=2,
        metric="cosine",
        init="pca" if len(chosen) > 50 else "random",
        perplexity=min(30.0, (len(chosen) - 1) / 3),
        random_state=0,
    )
    ends = np.cumsum([len(of_kind) for of_kind in rows.values()])[:-1]
    parts = np.split(projection.fit_transform(vectors[chosen]), ends)
    return dict(zip(rows, parts, strict=True))


def _nearness(
    dataset: str, vectors: np.ndarray, rows: Mapping[str, np.ndarray], domains: Sequence[str]
) -> Table:
    """How near each kind of item is to the other domain: mean best cosine."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    table = Table(f"{dataset}: mean best cosine with the items of", domains, ranked=False)
    for kind, of_kind in rows.items():
        for domain in domains:
            if kind != domain and len(of_kind):
                best = (unit[of_kind] @ unit[rows[domain]].T).max(axis=1)
                table.add(kind, domain, [float(best.mean())])
    return table


register_experiment(
    "map",
    "Map of the items",
    "figure 3",
    lay_out=map_page,
    text="t-SNE of the text vectors, a sample of the items. After augmentation the items that were "
    "inserted into sequences of the other domain are shown as well; the embedded generator "
    "proposes items that exist, an LLM also new ones.",
)
