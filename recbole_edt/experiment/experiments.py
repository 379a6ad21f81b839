"""Every table and figure of the paper's experiments, by name (specification, section 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recbole_edt.experiment.compare import (
    ENTRIES,
    Entry,
    collect,
    costs_table,
    protocol_tables,
    results_of,
)
from recbole_edt.experiment.context import ExperimentContext, Page, Runs, paper_table
from recbole_edt.experiment.tables import Table
from recbole_edt.io.files import read_table
from recbole_edt.io.paths import properties_dir

OURS = "LLM-EDT"


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes
    ----------
    title : str
        What it shows.
    source : str
        Where the paper has it.
    runs : callable
        ExperimentContext -> row -> runs; none for what needs no training.
    page : callable
        (ExperimentContext, runs) -> what is shown of those that are done.
    """

    title: str
    source: str
    runs: Callable[[ExperimentContext], Runs]
    page: Callable[[ExperimentContext, Runs], Page]


def grids() -> dict[str, Any]:
    """Read what experiments vary (``properties/experiment/grids.yaml``)."""
    path = properties_dir() / "experiment" / "grids.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _no_runs(bench: ExperimentContext) -> Runs:
    return {}


def _main_columns(table: Table) -> list[str]:
    """Return the first metric's column of each domain, without the overall one."""
    metric = table.columns[0].split()[-1]
    return [c for c in table.columns if c.endswith(f" {metric}") and not c.startswith("overall ")]


def _results_page(
    bench: ExperimentContext,
    runs: Runs,
    name: str,
    title: str,
    rows: Mapping[str, str] | None = None,
) -> Page:
    """One table per protocol, the paper's beside them, and bars of the first."""
    from recbole_edt.experiment import pictures

    tables = protocol_tables(bench.results(runs), f"{title}: {bench.dataset}")
    page = Page(title, tables=list(tables))
    printed = paper_table(name, bench.dataset)
    if printed is not None:
        page.tables.insert(1, printed)
    columns = _main_columns(tables[0])
    page.pictures[name] = pictures.bars(tables[0], columns, tables[0].title.split(", ")[-1])
    return page


# -- table 1, table 9: overall, efficiency --------------------------------------------------------


def overall_runs(bench: ExperimentContext) -> Runs:
    """All rows of table 1."""
    return {row: bench.runs(entry) for row, entry in ENTRIES.items()}


def overall_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 1 with our lead and its significance."""
    from recbole_edt.experiment import pictures

    tables = protocol_tables(bench.results(runs), bench.dataset, "LLMEDT")
    page = Page("Overall performance", tables=tables)
    printed = paper_table("overall", bench.dataset)
    if printed is not None:
        page.tables.insert(1, printed)
    page.pictures["overall"] = pictures.bars(tables[0], _main_columns(tables[0]), "uni100")
    return page


def efficiency_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 9: parameters and time of the runs of table 1."""
    page = Page("Parameters and time", tables=[costs_table(bench.dataset, bench.results(runs))])
    printed = paper_table("efficiency", bench.dataset)
    if printed is not None:
        page.tables.append(printed)
    return page


# -- tables 2 and 8: ablations --------------------------------------------------------------------

ABLATIONS: dict[str, dict[str, Any]] = {
    OURS: {},
    "w/o Aug.": {"augment": {"generator": "none"}},
    "w/o DFT": {"model": "LLMEDTPretrain"},
    "w/o Profiling": {"keys": {"align_weight": 0.0}},
    "w/o Filtering": {"augment": {"filter": "none"}},
    "w/o Inserting": {"augment": {"insert": "end"}},
    "Random Inserting": {"augment": {"insert": "random"}},
    "w/o S-R-A": {"augment": {"profile": "naive"}},
}
"""Row -> what differs from LLM-EDT: its model, its keys, or how its data are augmented."""


def ablation_runs(bench: ExperimentContext) -> Runs:
    """LLM-EDT and its seven ablations."""
    return {
        row: bench.runs(
            Entry(change.get("model", "LLMEDT")), change.get("keys"), change.get("augment")
        )
        for row, change in ABLATIONS.items()
    }


def ablation_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Tables 2 and 8."""
    page = _results_page(bench, runs, "ablation", "Ablations")
    page.text.append(
        "Without augmentation no row is inserted; without DFT the model is stage 1 alone; without "
        "profiling the alignment loss is gone; without filtering every proposal is inserted; "
        "without inserting what is proposed stands at the end of the sequence; random inserting "
        "puts it anywhere; without S-R-A one naive summary is the profile."
    )
    return page


# -- table 3: similarity; table 6: cost; table 7: statistics; figure 1: ratios ---------------------


def similarity_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 3: how far users' mean item vectors move when a share of the items is injected."""
    found = bench.variants.report({})["similarity"]
    table = Table(f"{bench.dataset}: cosine before and after injection", list(found), ranked=False)
    table.cells["cosine"] = {share: [value] for share, value in found.items()}
    page = Page("Similarity by inject ratio", tables=[table])
    page.text.append("Mean over augmented users of the cosine between the mean of their training "
                     "items' text vectors before and after injection.")  # fmt: skip
    return _with_paper(page, "similarity", bench)


def _with_paper(page: Page, name: str, bench: ExperimentContext) -> Page:
    printed = paper_table(name, bench.dataset)
    if printed is not None:
        page.tables.append(printed)
    return page


def cost_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 6: what the LLM cost per user, or would cost by an estimate that asks nothing."""
    users = len(bench.histories().users)
    spent = bench.variants.report({})["cost"]
    table = Table(f"{bench.dataset}: cost per stage",
                  ["requests", "tokens in", "tokens out", "dollars", "dollars per user"],
                  digits=6, ranked=False)  # fmt: skip
    for stage, cost in spent.items():
        _add_cost(table, f"spent: {stage}", cost, users)
    for cost in bench.variants.estimate(
        {"encoder": "openai", "generator": "openai", "profiler": "openai"}
    ):
        _add_cost(table, f"estimate: {cost['stage']}", cost, users)
    page = Page("Cost of preprocessing", tables=[table])
    page.text.append(
        "*Spent* is what the data in use cost; the embedded defaults ask no LLM and cost nothing. "
        "*Estimate* is a dry run with the default endpoint of `augment`: nothing is asked."
    )
    return _with_paper(page, "cost", bench)


def _add_cost(table: Table, row: str, cost: Mapping[str, Any], users: int) -> None:
    dollars = cost["dollars"]
    values = (cost.get("requests", cost.get("calls", 0)), cost["prompt_tokens"],
              cost["completion_tokens"], dollars, dollars / users)  # fmt: skip
    for column, value in zip(table.columns, values, strict=True):
        table.add(row, column, [float(value)])


def statistics_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 7: users, items and rows before and after augmentation."""
    found = bench.variants.report({})["statistics"]
    domains = list(found["before"]["items"])
    columns = [f"{d} users" for d in domains] + [f"{d} items" for d in domains]
    columns += ["rows", "rows per user", "users of both domains"]
    table = Table(f"{bench.dataset}: statistics", columns, digits=2, ranked=False)
    for when in ("before", "after"):
        part = found[when]
        values = [*part["users_per_domain"].values(), *part["items"].values(), part["rows"],
                  part["average_length"], part["users_of_both_domains"]]  # fmt: skip
        for column, value in zip(columns, values, strict=True):
            table.add(when, column, [float(value)])
    return _with_paper(Page("Statistics before and after", tables=[table]), "statistics", bench)


def imbalance_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Figure 1: users by r before and after augmentation."""
    from recbole_edt.experiment import pictures

    found = bench.variants.report({})["statistics"]
    shares = {when: found[when]["imbalance"] for when in ("before", "after")}
    table = Table(f"{bench.dataset}: share of users by r", list(shares["before"]), ranked=False)
    for when, values in shares.items():
        table.cells[when] = {bucket: [share] for bucket, share in values.items()}
    page = Page("Imbalance of the domains", tables=[table])
    page.text.append("r = |nA - nB| / (nA + nB) over all rows of a user, inserted ones included.")
    page.pictures["imbalance"] = pictures.histogram(shares, "domain ratio r", "users (%)")
    return page


# -- table 4, figure 4: groups of users -----------------------------------------------------------


def ratio_groups(bench: ExperimentContext) -> dict[str, np.ndarray]:
    """Users by r of their raw training rows (table 4), bool [n_users] each."""
    counts = bench.histories().domain_counts()
    r = np.abs(counts[:, 0] - counts[:, 1]) / np.maximum(counts.sum(axis=1), 1)
    return {"r >= 0.95": r >= 0.95, "0.9 <= r < 0.95": (r >= 0.9) & (r < 0.95), "r < 0.9": r < 0.9}


def length_groups(bench: ExperimentContext) -> dict[str, np.ndarray]:
    """Users by their number of raw rows (figure 4), bool [n_users] each."""
    histories = bench.histories()
    rows = histories.inter["user_id"].value_counts().reindex(histories.users).to_numpy()
    bounds = [("Very Short", 0, 5), ("Short", 5, 10), ("Medium", 10, 15), ("Long", 15, 20)]
    groups = {f"{name} ({low}-{high})": (rows > low) & (rows <= high) for name, low, high in bounds}
    return groups | {"Very Long (> 20)": rows > 20}


def _group_tables(
    bench: ExperimentContext, runs: Runs, groups: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Table]]:
    """Protocol -> row of runs -> table with one row per group."""
    out: dict[str, dict[str, Table]] = {}
    for row, of_row in runs.items():
        done = results_of(bench.store, of_row)
        for mode in done[0]["protocols"] if done else ():
            reports = bench.grouped(of_row, groups, mode)
            table = collect(f"{row}: {bench.dataset}, test, {mode}", reports)
            table.ranked = False  # groups of users do not compete
            users = {name: found[0]["overall"]["n"] for name, found in reports.items() if found}
            table.notes.append("Users: " + ", ".join(f"{k} {n:,}" for k, n in users.items()))
            out.setdefault(mode, {})[row] = table
    return out


def ratio_runs(bench: ExperimentContext) -> Runs:
    """LLM-EDT and LLM-EDT without augmentation."""
    runs = ablation_runs(bench)
    return {row: runs[row] for row in (OURS, "w/o Aug.")}


def length_runs(bench: ExperimentContext) -> Runs:
    """The three models of figure 4."""
    return ratio_runs(bench) | {"LLMCDSR": bench.runs(ENTRIES["LLMCDSR"])}


def _groups_page(bench: ExperimentContext, runs: Runs, name: str, title: str, groups) -> Page:
    from recbole_edt.experiment import pictures

    by_mode = _group_tables(bench, runs, groups)
    page = Page(title, tables=[t for tables in by_mode.values() for t in tables.values()])
    _with_paper(page, name, bench)
    tables = next(iter(by_mode.values()), {})
    if tables:
        for column in _main_columns(next(iter(tables.values()))):
            picture = f"{name}_{column.split()[0]}"
            page.pictures[picture] = pictures.grouped_bars(tables, column, column)
    return page


def ratio_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 4: by r."""
    return _groups_page(bench, runs, "ratio", "Users by domain ratio r", ratio_groups(bench))


def length_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Figure 4: by length."""
    page = _groups_page(bench, runs, "length", "Users by length", length_groups(bench))
    page.text.append("Length: number of raw rows; a group holds its upper bound.")
    return page


# -- tables 5, 10, 11, 12, figure 5: variants of LLM-EDT ------------------------------------------


def llm_runs(bench: ExperimentContext) -> Runs:
    """Other embeddings and generators (table 5)."""
    rows = grids()["llms"]
    vectors = bench.variants.raw() / bench.dataset / f"{bench.dataset}.item_emb.npy"
    if not vectors.is_file():
        rows = {row: keys for row, keys in rows.items() if keys.get("encoder") != "file"}
    return {row: bench.runs(Entry("LLMEDT"), augment=keys) for row, keys in rows.items()}


def llm_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 5."""
    page = _results_page(bench, runs, "llm", "Encoders and generators")
    page.text.append("The embedded defaults, which need no network. For an LLM of your choice add "
                     "a row to `properties/experiment/grids.yaml`.")  # fmt: skip
    return page


def backbone_runs(bench: ExperimentContext) -> Runs:
    """The backbone alone, and models on it (table 10)."""
    out: Runs = {}
    for name in ("GRU4Rec", "BERT4Rec"):
        out[name] = bench.runs(ENTRIES[f"{name}*"])
        for label, model in (("LLMCDSR", "LLMCDSR"), ("LLM4CDSR", "LLM4CDSR"), (OURS, "LLMEDT")):
            out[f"{name} + {label}"] = bench.runs(Entry(model), {"backbone": name.lower()})
    return out


def backbone_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 10."""
    page = _results_page(bench, runs, "backbone", "Backbones")
    page.text.append("GRU4Rec and BERT4Rec by themselves are trained with ids on all positions at "
                     "once: the rows `GRU4Rec*` and `BERT4Rec*` of `compare`.")  # fmt: skip
    return page


def tau_runs(bench: ExperimentContext) -> Runs:
    """Filters of several strengths (table 11)."""
    grid = grids()
    if bench.variants.settings().encoder == "openai":  # the scale that the paper's taus have
        return {f"τ = {tau:.2f}": bench.runs(Entry("LLMEDT"), augment={"tau": tau})
                for tau in grid["tau"]}  # fmt: skip
    return {
        f"τ = quantile {q:g}": bench.runs(
            Entry("LLMEDT"), augment=bench.variants.changes({"tau_quantile": q})
        )
        for q in grid["tau_quantile"]
    }


def tau_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 11."""
    return _results_page(bench, runs, "tau", "Threshold τ of the filter")


def _proposed(bench: ExperimentContext) -> dict[str, int]:
    """Retrieval proposes one item by default: how many it needs for every k to differ."""
    retrieves = bench.variants.settings().generator == "retrieval"
    return {"num": max(grids()["k"])} if retrieves else {}


def k_runs(bench: ExperimentContext) -> Runs:
    """Items kept per user (table 12)."""
    proposed = _proposed(bench)
    return {
        f"k = {k}": bench.runs(
            Entry("LLMEDT"), augment=bench.variants.changes({"k": k, **proposed})
        )
        for k in grids()["k"]
    }


def k_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Table 12."""
    page = _results_page(bench, runs, "k", "Items kept per user, k")
    page.text += [
        f"Retrieval proposes {n} items per direction here, not the default."
        for n in _proposed(bench).values()
    ]
    return page


def alpha_runs(bench: ExperimentContext) -> Runs:
    """Weights of the alignment loss (figure 5)."""
    return {
        f"α = {alpha:g}": bench.runs(Entry("LLMEDT"), {"align_weight": alpha})
        for alpha in grids()["alpha"]
    }


def alpha_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Figure 5."""
    from recbole_edt.experiment import pictures

    tables = protocol_tables(bench.results(runs), f"Weight α of the alignment: {bench.dataset}")
    page = Page("Weight of the alignment loss", tables=tables)
    columns = _main_columns(tables[0])
    page.pictures["alpha"] = pictures.lines(
        tables[0], columns, "α", [float(row.split()[-1]) for row in tables[0].cells]
    )
    page.text.append("The paper shows a rise and a fall with the best α about 0.7 for cloth and "
                     "1.0 for sport, and prints no figures.")  # fmt: skip
    return page


# -- figure 3: map of items; figure 6: one user ---------------------------------------------------

_POINTS = 700
"""Items of each domain that the map shows, at most."""


def map_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Figure 3: t-SNE of the items' text vectors, before and after augmentation."""
    from sklearn.manifold import TSNE

    from recbole_edt.experiment import pictures

    folder = bench.variants.make({}) / bench.dataset
    items, vectors, inserted = _items_with_insertions(folder, bench.dataset)
    rng = np.random.default_rng(0)
    domains = sorted(items["domain"].unique())
    raw = items["generated"].to_numpy() != "1"
    kinds = {}
    for domain in domains:
        of_domain = np.flatnonzero((items["domain"] == domain).to_numpy() & raw)
        kinds[domain] = rng.permutation(of_domain)[:_POINTS]
    bridge = np.flatnonzero(inserted)
    kinds["inserted"] = rng.permutation(bridge)[:_POINTS]
    rows = np.concatenate(list(kinds.values()))
    points = TSNE(
        n_components=2, metric="cosine", init="pca" if len(rows) > 50 else "random",
        perplexity=min(30.0, (len(rows) - 1) / 3), random_state=0,
    ).fit_transform(vectors[rows])  # fmt: skip
    cuts = np.split(points, np.cumsum([len(k) for k in kinds.values()])[:-1])
    after = dict(zip(kinds, cuts, strict=True))
    before = {domain: after[domain] for domain in domains}
    page = Page("Map of the items")
    page.pictures["map"] = pictures.item_map({"before": before, "after": after})
    page.tables.append(_bridge_table(bench, vectors, kinds, domains))
    page.text.append(
        "t-SNE of the text vectors, a sample of the items. After augmentation the items that were "
        "inserted into sequences of the other domain are shown as well; the embedded generator "
        "proposes items that exist, an LLM also new ones."
    )
    return page


def _items_with_insertions(folder, name) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    items, inter = read_table(folder / f"{name}.item"), read_table(folder / f"{name}.inter")
    vectors = np.load(folder / f"{name}.item_emb.npy").astype(np.float32)
    inserted = items["item_id"].isin(inter.loc[inter["augmented"] == "1", "item_id"]).to_numpy()
    return items, vectors, inserted


def _bridge_table(bench, vectors, kinds, domains) -> Table:
    """How near each kind of item is to the other domain: mean best cosine."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    table = Table(f"{bench.dataset}: mean best cosine with the items of", domains, ranked=False)
    for kind, rows in kinds.items():
        for domain in domains:
            if kind != domain and len(rows):
                best = (unit[rows] @ unit[kinds[domain]].T).max(axis=1)
                table.add(kind, domain, [float(best.mean())])
    return table


def case_page(bench: ExperimentContext, runs: Runs) -> Page:
    """Figure 6: the user whom augmentation helped most."""
    from recbole_edt.experiment import pictures

    page = Page("Case study")
    found = _best_case(bench, runs)
    if found is None:
        page.text.append("No augmented user is ranked better with augmentation than without it.")
        return page
    user, with_rank, without_rank = found
    history, target, domains = _case(bench, user)
    page.text.append(
        f"User {user}: the item he chose next stands at place {with_rank} with augmentation and at "
        f"place {without_rank} without it, among the sampled candidates."
    )
    page.pictures["case"] = pictures.sequence(history, target, domains)
    table = Table(f"{bench.dataset}, user {user}: rank of the target", ["rank"], digits=0,
                  lower_is_better={"rank"}, ranked=False)  # fmt: skip
    table.add(OURS, "rank", [with_rank])
    table.add("w/o Aug.", "rank", [without_rank])
    page.tables.append(table)
    return page


def _best_case(bench: ExperimentContext, runs: Runs) -> tuple[str, int, int] | None:
    """Return the augmented user with the largest gain in reciprocal rank, and both ranks."""
    first = {row: of_row[0] for row, of_row in runs.items()}
    results = bench.store.results(first[OURS])
    if results is None or bench.store.results(first["w/o Aug."]) is None:
        return None
    field = f"test_{results['protocol']}"
    ours, without = (bench.store.ranks(first[row]) for row in (OURS, "w/o Aug."))
    folder = bench.variants.make({}) / bench.dataset
    inter = read_table(folder / f"{bench.dataset}.inter")
    augmented = set(inter.loc[inter["augmented"] == "1", "user_id"])
    other = dict(zip(without["users"].tolist(), without[field].tolist(), strict=True))
    best, best_gain = None, 0.0
    for user, rank in zip(ours["users"].tolist(), ours[field].tolist(), strict=True):
        gain = 1 / rank - 1 / other[user]
        if user in augmented and gain > best_gain:
            best, best_gain = (user, rank, other[user]), gain
    return best


def _case(bench: ExperimentContext, user: str):
    """Read a user's augmented history, his target, and the names of the domains."""
    folder = bench.variants.make({}) / bench.dataset
    inter = read_table(folder / f"{bench.dataset}.inter")
    items = read_table(folder / f"{bench.dataset}.item").set_index("item_id")
    domains = sorted(items["domain"].unique())
    mine = inter[inter["user_id"] == user]
    mine = mine.iloc[np.argsort(mine["position"].astype(float).to_numpy(), kind="stable")]
    steps = [
        (_title(items, item), domains.index(items.at[item, "domain"]), flag == "1")
        for item, flag in zip(mine["item_id"], mine["augmented"], strict=True)
    ]
    *history, (title, domain, _) = steps
    return history[-14:], (title, domain), domains


def _title(items: pd.DataFrame, item: str) -> str:
    title = str(items.at[item, "title"]) if "title" in items else ""
    return title.strip() or item


EXPERIMENTS: dict[str, Experiment] = {
    "overall": Experiment("Overall performance", "table 1", overall_runs, overall_page),
    "ablation": Experiment("Ablations", "tables 2 and 8", ablation_runs, ablation_page),
    "similarity": Experiment("Similarity by inject ratio", "table 3", _no_runs, similarity_page),
    "ratio": Experiment("Users by domain ratio", "table 4", ratio_runs, ratio_page),
    "llm": Experiment("Encoders and generators", "table 5", llm_runs, llm_page),
    "cost": Experiment("Cost of preprocessing", "table 6", _no_runs, cost_page),
    "statistics": Experiment("Statistics of the data", "table 7", _no_runs, statistics_page),
    "efficiency": Experiment("Parameters and time", "table 9", overall_runs, efficiency_page),
    "backbone": Experiment("Backbones", "table 10", backbone_runs, backbone_page),
    "tau": Experiment("Threshold of the filter", "table 11", tau_runs, tau_page),
    "k": Experiment("Items kept per user", "table 12", k_runs, k_page),
    "imbalance": Experiment("Imbalance of the domains", "figure 1", _no_runs, imbalance_page),
    "map": Experiment("Map of the items", "figure 3", _no_runs, map_page),
    "length": Experiment("Users by length", "figure 4", length_runs, length_page),
    "alpha": Experiment("Weight of the alignment", "figure 5", alpha_runs, alpha_page),
    "case": Experiment("Case study", "figure 6", ratio_runs, case_page),
}
"""Every experiment of the paper's tables 1-12 and figures 1, 3, 4, 5, 6."""
