"""Table 4: users by domain ratio; figure 4: users by length."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from recbole_edt.experiment import base, pictures
from recbole_edt.experiment.layout import reports_table
from recbole_edt.experiment.paper.ablation import ablation_runs

Groups = Mapping[str, np.ndarray]
"""Group -> bool [n_users], by user of the context's histories."""


def ratio_groups(context: base.ExperimentContext) -> Groups:
    """Users by r = |nA - nB| / (nA + nB) of their raw training rows."""
    counts = context.histories.domain_counts()
    r = np.abs(counts[:, 0] - counts[:, 1]) / np.maximum(counts.sum(axis=1), 1)
    return {"r >= 0.95": r >= 0.95, "0.9 <= r < 0.95": (r >= 0.9) & (r < 0.95), "r < 0.9": r < 0.9}


def length_groups(context: base.ExperimentContext) -> Groups:
    """Users by their number of raw rows."""
    histories = context.histories
    rows = histories.inter["user_id"].value_counts().reindex(histories.users).to_numpy()
    bounds = [("Very Short", 0, 5), ("Short", 5, 10), ("Medium", 10, 15), ("Long", 15, 20)]
    groups = {f"{name} ({low}-{high})": (rows > low) & (rows <= high) for name, low, high in bounds}
    return groups | {"Very Long (> 20)": rows > 20}


def ratio_runs(context: base.ExperimentContext) -> base.Runs:
    """LLM-EDT with and without augmentation."""
    return ablation_runs(context, (base.OURS, "w/o Aug."))


def length_runs(context: base.ExperimentContext) -> base.Runs:
    """The three models of figure 4."""
    return ratio_runs(context) | {"LLMCDSR": context.runs("LLMCDSR")}


def groups_page(name: str, group, context: base.ExperimentContext, runs: base.Runs) -> base.Page:
    """Lay out one table per protocol and row of runs, and bars of the first protocol."""
    groups = group(context)
    by_mode: dict[str, dict[str, base.Table]] = {}
    for row, done in context.results(runs).items():
        for mode in done[0]["protocols"] if done else ():
            reports = context.grouped(runs[row], groups, mode)
            table = reports_table(f"{row}: {context.dataset}, test, {mode}", reports)
            table.ranked = False  # groups of users do not compete
            users = (f"{name} {of[0]['overall']['n']:,}" for name, of in reports.items() if of)
            table.notes.append("Users: " + ", ".join(users))
            by_mode.setdefault(mode, {})[row] = table
    page = base.Page(tables=[table for tables in by_mode.values() for table in tables.values()])
    for tables in list(by_mode.values())[:1]:
        for column in base.main_columns(page.tables[0]):
            page.pictures[f"{name}_{column.split()[0]}"] = pictures.grouped_bars(tables, column)
    return page


base.register_experiment(
    "ratio", "Users by domain ratio r", "table 4",
    runs=ratio_runs, lay_out=partial(groups_page, "ratio", ratio_groups),
)  # fmt: skip
base.register_experiment(
    "length", "Users by length", "figure 4",
    runs=length_runs, lay_out=partial(groups_page, "length", length_groups),
    text="Length: number of raw rows; a group holds its upper bound.",
)  # fmt: skip
