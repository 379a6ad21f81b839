"""Table 4: users by domain ratio; figure 4: users by length."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from recbole_edt.experiment import base
from recbole_edt.experiment.layout import reports_table
from recbole_edt.experiment.paper.ablation import ablation_runs
from recbole_edt.experiment.tables import Table

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
    """Lay out one table per protocol, a row for each model and group, and points of the first."""
    groups = group(context)
    by_mode: dict[str, dict[str, dict[str, list]]] = {}  # mode -> row -> group -> reports
    for row, done in context.results(runs).items():
        for mode in done[0]["protocols"] if done else ():
            by_mode.setdefault(mode, {})[row] = context.grouped(runs[row], groups, mode)
    page = base.Page()
    for mode, by_row in by_mode.items():
        reports = {f"{row}, {one}": found for row, of_row in by_row.items()
                   for one, found in of_row.items()}  # fmt: skip
        table = reports_table(f"{context.dataset}, test, {mode}", reports)
        table.ranked = False
        counts = (f"{found[0]['overall']['n']:,} ({one})"
                  for one, found in next(iter(by_row.values())).items())  # fmt: skip
        table.notes.append(f"Test users: {', '.join(counts)}.")
        page.tables.append(table)
    if by_mode:
        title, by_row = page.tables[0].title, next(iter(by_mode.values()))
        tables = {row: reports_table(title, of_row) for row, of_row in by_row.items()}
        page.add_points(name, tables, compared(tables))
    return page


def compared(tables: Mapping[str, Table]) -> str:
    """Say in a sentence what the first two models reach overall in each group."""
    labels, column = list(tables)[:2], next(iter(tables.values())).columns_of("overall")[-1]
    means = pd.DataFrame({label: tables[label].means()[column] for label in labels}).dropna()
    told = (f"{' and '.join(f'{mean:.4f}' for mean in of)} ({row})"
            for row, *of in means.itertuples())  # fmt: skip
    return f"{column.replace('overall', 'Overall')} of {' and '.join(labels)}: {'; '.join(told)}."


base.register_experiment(
    "ratio", "Users by domain ratio r", "table 4",
    runs=ratio_runs, lay_out=partial(groups_page, "ratio", ratio_groups),
)  # fmt: skip
base.register_experiment(
    "length", "Users by length", "figure 4",
    runs=length_runs, lay_out=partial(groups_page, "length", length_groups),
    text="Length: number of raw rows; a group holds its upper bound.",
)  # fmt: skip
