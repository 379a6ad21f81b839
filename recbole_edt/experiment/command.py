"""``recbole-edt experiment``: tables and figures of the paper from one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_edt.errors import ConfigError, DataError
from recbole_edt.evaluation.report import check_writable
from recbole_edt.experiment.context import ExperimentContext, write_page
from recbole_edt.experiment.experiments import EXPERIMENTS, grids
from recbole_edt.experiment.runs import (
    check_failures,
    execute,
    parse_seeds,
    refuse_unknown,
    take_budget,
    take_dataset,
    take_jobs,
    take_places,
)
from recbole_edt.io.lock import run_lock
from recbole_edt.settings import nearest, parse_arguments

HELP = """\
usage: recbole-edt experiment list|NAME|all --dataset=D [--key=value ...]

Make a table or figure of the paper: figures (CSV), a page (Markdown), LaTeX, and pictures
(PNG, SVG) in results/D/NAME/, the paper's figures beside ours. Trained models are shared between
experiments and with `compare`; what is done is not done again.

  list                      names, and where the paper has them
  --dataset=D               name of the data set, raw or augmented
  --data_path=IN            folder that holds D/ (default: dataset/, then dataset_atomic/)
  --seeds=42,44,46          default for simulated data: 42
  --budget=SECONDS          training of any stage ends after them (simulated data: 12)
  --report_modes="['full']" further protocols beside uni100 (default: full)
  --output_path=results
  --jobs=N                  trainings at a time
  --KEY=VALUE               any other key goes to every run that knows it
"""


def experiment(arguments: Sequence[str]) -> None:
    """Make experiments as the command line asks for it.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    if not arguments or arguments[0].startswith("--"):
        raise ConfigError("name an experiment, or say list or all")
    name, *rest = arguments
    if name == "list":
        print_list()
        return
    if name != "all" and name not in EXPERIMENTS:
        raise ConfigError(f"unknown experiment '{name}'{nearest(name, EXPERIMENTS)}")
    bench, jobs = read_bench(parse_arguments(rest))
    names = list(EXPERIMENTS) if name == "all" else [name]
    check_writable("output_path", bench.folder / names[0] / "page.md")
    with run_lock(bench.folder):
        for page in make(bench, names, jobs):
            print(f"written: {page}")


def print_list() -> None:
    """Print the names of all experiments."""
    for name, one in EXPERIMENTS.items():
        print(f"  {name:<12} {one.source:<15} {one.title}")


def make(bench: ExperimentContext, names: Sequence[str], jobs: int | None = None) -> list[Path]:
    """Do the runs of experiments, shared ones once, and write their pages.

    Returns
    -------
    list of Path
        The pages.

    Raises
    ------
    TrainingError
        If runs failed; the pages show what did not.
    """
    runs = {}
    bar = tqdm(names, desc="data sets", unit="experiment", leave=False)
    for name in bar:
        bar.set_postfix_str(name)
        runs[name] = EXPERIMENTS[name].runs(bench)
    wanted = [run for rows in runs.values() for of_row in rows.values() for run in of_row]
    failures = execute(bench.store, wanted, jobs, f"experiments on {bench.dataset}")
    pages = [
        write_page(EXPERIMENTS[name].page(bench, runs[name]), bench.folder / name, name)
        for name in tqdm(names, desc="pages", unit="page", leave=False)
    ]
    check_failures(failures)
    return pages


def read_bench(given: dict[str, Any]) -> tuple[ExperimentContext, int | None]:
    """Turn arguments into a bench and a number of trainings at a time.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    given = dict(given)
    name = take_dataset(given)
    data_path, folder = take_places(given, name)
    if not (data_path / name / f"{name}.inter").is_file():
        raise DataError(f"there is no data set in {data_path / name}")
    simulated = grids()["simulated"] if (data_path / name / "SIMULATED").is_file() else {}
    budget, jobs = take_budget(given, simulated.get("budget", 0)), take_jobs(given)
    seeds = parse_seeds(given.pop("seeds", simulated.get("seeds", [42, 44, 46])))
    refuse_unknown(given, ("LLMEDT", "SASRec"), name)
    keys = {"report_modes": ["full"], **given}
    return ExperimentContext(name, data_path, folder, seeds, keys, budget), jobs
