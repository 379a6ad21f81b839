"""``recbole-edt compare``: models beside each other, the same protocol, one table (table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_edt.errors import ConfigError
from recbole_edt.evaluation.report import check_writable
from recbole_edt.experiment.runs import (
    Run,
    RunStore,
    execute,
    keys_for,
    parse_seeds,
    refuse_unknown,
    take_budget,
    take_dataset,
    take_jobs,
    take_places,
)
from recbole_edt.experiment.tables import Table, to_markdown, write_tables
from recbole_edt.experiment.variants import Variants
from recbole_edt.io.lock import run_lock
from recbole_edt.registry import known_models, plugin_models
from recbole_edt.settings import nearest, parse_arguments

HELP = """\
usage: recbole-edt compare --dataset=D [--models=all] [--seeds=42,44,46] [--key=value ...]

Train and test models under one protocol and lay them out in one table, per domain and overall:
means and deviations over seeds, the best bold, the second underlined, LLMEDT's lead and whether
it is significant. What is done already is not done again.

  --dataset=D               name of the data set; raw data are augmented first (recbole-edt augment)
  --data_path=IN            folder that holds D/ (default: dataset/, then dataset_atomic/)
  --models=all              names with commas between; all: the nine baselines of the paper, LLMEDT,
                            and SASRec*, GRU4Rec*, BERT4Rec*, which train on all positions at once
  --seeds=42,44,46
  --budget=600              seconds of training for each run of RecBole's own models, which train on
                            every prefix by itself; 0: as long as they like
  --report_modes="['full']" further protocols beside uni100 (default: full)
  --output_path=results     receives D/compare.csv, .md, .tex and D/runs/
  --jobs=N                  trainings at a time
  --KEY=VALUE               any other key goes to every run that knows it
"""


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a model and what it is told.

    Attributes
    ----------
    model : str
        Its name in the registry.
    keys : mapping
        Settings that differ from its property file.
    raw : bool
        Whether it sees nothing of what augmentation makes: neither inserted rows nor profiles.
    """

    model: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    raw: bool = False


def _all_positions(backbone: str) -> Entry:
    """Make RecBole's model of a backbone anew: ids, one sequence, but all positions in one pass."""
    keys = {
        "backbone": backbone,
        "item_embedding": "id",
        "pretrain_sequences": "mixed",
        "learning_rate": 0.001,  # RecBole's, as its own models have
        "align_weight": 0.0,
        "augmentation": False,
    }
    return Entry("LLMEDTPretrain", keys, raw=True)


ENTRIES = {
    "GRU4Rec": Entry("GRU4Rec", raw=True),
    "BERT4Rec": Entry("BERT4Rec", raw=True),
    "SASRec": Entry("SASRec", raw=True),
    "GRU4Rec*": _all_positions("gru4rec"),
    "BERT4Rec*": _all_positions("bert4rec"),
    "SASRec*": _all_positions("sasrec"),
    "C2DSR": Entry("C2DSR", raw=True),
    "TriCDR": Entry("TriCDR", raw=True),
    "SyNCRec": Entry("SyNCRec", raw=True),
    "LLMESR": Entry("LLMESR"),
    "LLMCDSR": Entry("LLMCDSR"),
    "LLM4CDSR": Entry("LLM4CDSR"),
    "LLMEDT": Entry("LLMEDT"),
}
"""Rows of table 1 in its order, and RecBole's three once more without their prefixes (``*``)."""


@dataclass
class Comparison:
    """What is compared, on what, and where the results go.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    data_path : Path
        Folder that holds its folder.
    folder : Path
        ``<output_path>/<dataset>``.
    entries : mapping
        Row -> entry.
    seeds : list of int
        Of training.
    budget : float, optional
        Seconds of training for a run of RecBole's own models; None for no limit.
    keys : mapping
        Settings of every run.
    jobs : int, optional
        Trainings at a time.
    """

    dataset: str
    data_path: Path
    folder: Path
    entries: Mapping[str, Entry]
    seeds: Sequence[int]
    budget: float | None = 600.0
    keys: Mapping[str, Any] = field(default_factory=dict)
    jobs: int | None = None

    def __post_init__(self) -> None:
        self.store = RunStore(self.folder / "runs")

    def augmented(self) -> Path:
        """Folder of the augmented data, made first where a row needs them and they are raw."""
        if all(entry.raw for entry in self.entries.values()):
            return self.data_path
        return Variants(self.dataset, self.data_path, self.folder / "data").make({})

    def runs(self, augmented: Path) -> dict[str, list[Run]]:
        """Runs of each row, one per seed, on the data as given or on their augmented folder."""
        out = {}
        models = [entry.model for entry in self.entries.values()]
        refuse_unknown(self.keys, models, self.dataset)
        for row, entry in self.entries.items():
            keys = {**entry.keys, **keys_for(self.keys, entry.model, self.dataset)}
            if self.budget and entry.model not in plugin_models():
                keys["time_limit"] = self.budget
            data_path = self.data_path if entry.raw else augmented
            out[row] = [
                Run(entry.model, self.dataset, data_path, seed, keys) for seed in self.seeds
            ]
        return out

    def run(self) -> list[Table]:
        """Do what is not done yet and lay everything out.

        Returns
        -------
        list of Table
            One per protocol, and one of costs; also written to ``<folder>/compare.*``.
        """
        for run in everything(self.runs(self.data_path)):
            self.store.name(run)  # whatever a run would be refused for is refused now
        runs = self.runs(self.augmented())
        wanted = everything(runs)
        failures = execute(self.store, wanted, self.jobs, f"compare {self.dataset}")
        tables = lay_out(self.dataset, self.store, runs)
        for run in wanted:
            reason = failures.get(self.store.name(run))
            if reason is not None:
                tables[0].notes.append(f"{run.model}, seed {run.seed}, failed: {reason}")
        write_tables(self.folder, "compare", tables)
        return tables


def everything(runs: Mapping[str, Sequence[Run]]) -> list[Run]:
    """All runs of all rows."""
    return [run for of_row in runs.values() for run in of_row]


def results_of(store: RunStore, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Results of those runs that are done, in their order."""
    return [results for run in runs if (results := store.results(run)) is not None]


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """Name the figures of a report as the paper's columns: ``cloth H@10``, ``overall N@10``, ...

    The untruncated MRR, which no table of the paper has, stays in the results files.
    """
    parts = {**report["domains"], "overall": report["overall"]}
    return {
        f"{part} {short_name(metric)}": value
        for part, values in parts.items()
        for metric, value in values.items()
        if metric not in ("n", "mrr")
    }


def short_name(metric: str) -> str:
    """Name a metric as the paper does: ``hit@10`` -> ``H@10``."""
    name, at, k = metric.partition("@")
    return {"hit": "H", "ndcg": "N", "mrr": "MRR"}[name] + at + k


def collect(
    title: str,
    reports: Mapping[str, Sequence[Mapping[str, Any]]],
    ours: str | None = None,
) -> Table:
    """Make a table of reports.

    Parameters
    ----------
    title : str
        Of the table.
    reports : mapping
        Row -> reports over seeds: ``{"overall": {...}, "domains": {name: {...}}}``.
    ours : str, optional
        The row whose lead is tested.
    """
    by_row = {row: [figures(report) for report in found] for row, found in reports.items()}
    columns = list(dict.fromkeys(c for found in by_row.values() for one in found for c in one))
    table = Table(title, columns, ours=ours if by_row.get(ours or "") else None)
    for row, found in by_row.items():
        table.cells[row] = {}
        for column in columns:
            table.add(row, column, [one[column] for one in found if column in one])
    return table


def lay_out(dataset: str, store: RunStore, runs: Mapping[str, Sequence[Run]]) -> list[Table]:
    """Make one table per protocol, and one of parameters and time (table 9)."""
    results = {row: results_of(store, of_row) for row, of_row in runs.items()}
    return [*protocol_tables(results, dataset, "LLMEDT"), costs_table(dataset, results)]


def protocol_tables(
    results: Mapping[str, Sequence[Mapping[str, Any]]], title: str, ours: str | None = None
) -> list[Table]:
    """Make one table per protocol that runs were tested under.

    Parameters
    ----------
    results : mapping
        Row -> results files over seeds.
    title : str
        Begins the title of each table.
    ours : str, optional
        The row whose lead is tested.
    """
    modes = dict.fromkeys(
        mode for found in results.values() for one in found for mode in one["protocols"]
    )
    tables = []
    for mode in modes:
        reports = {
            row: [one["protocols"][mode]["test"] for one in found if mode in one["protocols"]]
            for row, found in results.items()
        }
        tables.append(collect(f"{title}, test, {mode}", reports, ours))
    if tables:
        tables[0].notes += describe_runs(results)
    return tables


def describe_runs(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Say in notes which seeds there are, and which runs were cut short."""
    seeds = sorted({one["seed"] for found in results.values() for one in found})
    notes = [f"Means over seeds {', '.join(map(str, seeds))}; ± sample standard deviation."]
    for row, found in results.items():
        limits = {one["params"].get("time_limit") for one in found} - {None}
        cut = [one for one in found if was_cut(one)]
        if cut:
            epochs = ", ".join(str(one["timing"]["epochs"]) for one in cut)
            notes.append(
                f"{row}: training ended by its budget of {max(limits):g} s (after {epochs} epochs)."
            )
        short = {one["seed"] for one in found}
        if found and short != set(seeds):
            notes.append(f"{row}: seeds {', '.join(map(str, sorted(short)))} only.")
    return notes


def was_cut(results: Mapping[str, Any]) -> bool:
    """Tell whether a stage of a run ended by its ``time_limit``."""
    limit = results["params"].get("time_limit")
    return limit is not None and any(
        stage["train_s"] >= limit for stage in results["stages"].values()
    )


def costs_table(dataset: str, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Parameters, training and inference time per model (table 9)."""
    columns = [
        "parameters (M)", "trained (M)", "epochs", "s / epoch", "ms / 1,000 users",
    ]  # fmt: skip
    table = Table(f"{dataset}, costs", columns, digits=3, ranked=False)
    table.notes.append("Inference: scoring the test users of the first protocol. Times of runs "
                       "that shared the machine: compare them with care.")  # fmt: skip
    for row, found in results.items():
        table.cells[row] = {}
        table.add(row, columns[0], [one["parameters"]["total"] / 1e6 for one in found])
        table.add(row, columns[1], [trained(one) / 1e6 for one in found])
        table.add(row, columns[2], [one["timing"]["epochs"] for one in found])
        times = [one["timing"] for one in found]
        table.add(row, columns[3], [t["train_s"] / max(t["epochs"], 1) for t in times])
        users = [one["test"]["overall"]["n"] for one in found]
        table.add(
            row, columns[4], [1e6 * t["test_s"] / n for t, n in zip(times, users, strict=True)]
        )
    return table


def trained(results: Mapping[str, Any]) -> int:
    """Parameters that the last stage trained."""
    return results["parameters"]["trainable"]


def choose(names: Any) -> dict[str, Entry]:
    """Look up rows by name: ``all``, or names with commas between, of any known model.

    Raises
    ------
    ConfigError
        For an unknown name.
    """
    if names == "all":
        return dict(ENTRIES)
    wanted = [name.strip() for name in str(names).split(",") if name.strip()]
    known = [*ENTRIES, *known_models()]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"unknown model '{name}'{nearest(name, known)}")
    if not wanted:
        raise ConfigError("--models names no model")
    return {
        name: ENTRIES.get(name) or Entry(name, raw=name not in plugin_models()) for name in wanted
    }


def compare(arguments: Sequence[str]) -> None:
    """Compare models as the command line asks for it, and print the tables.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    given = parse_arguments(arguments)
    comparison = read_comparison(given)
    check_writable("output_path", comparison.folder / "compare.md")
    with run_lock(comparison.folder):
        tables = comparison.run()
    for table in tables:
        print(to_markdown(table))
    print(f"written: {comparison.folder}/compare.csv, .md, .tex")


def read_comparison(given: dict[str, Any]) -> Comparison:
    """Turn arguments into what is compared.

    Raises
    ------
    ConfigError
        For anything the user has to mend.
    """
    given = dict(given)
    name = take_dataset(given)
    data_path, folder = take_places(given, name)
    budget, jobs = take_budget(given, 600), take_jobs(given)
    return Comparison(
        name,
        data_path,
        folder,
        choose(given.pop("models", "all")),
        parse_seeds(given.pop("seeds", "42,44,46")),
        budget,
        jobs=jobs,
        keys={"report_modes": ["full"], **given},
    )
