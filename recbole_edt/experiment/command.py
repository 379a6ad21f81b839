"""``recbole-edt experiment``: tables and figures of the paper from one command."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from recbole_edt.errors import ConfigError
from recbole_edt.experiment.base import Experiment, load_experiments
from recbole_edt.experiment.context import FURTHER_KEYS, ExperimentContext
from recbole_edt.experiment.page import made_by
from recbole_edt.experiment.report import write_report
from recbole_edt.experiment.runs import check_failures, execute, flatten
from recbole_edt.io.files import check_writable
from recbole_edt.io.lock import run_lock
from recbole_edt.settings import help_text, nearest, parse_arguments, validate

HELP = help_text(
    "recbole-edt experiment list|NAME|all --dataset=DATASET [--key=value ...]",
    "Make a table or figure of the paper: figures (CSV), a page (Markdown), LaTeX, and pictures "
    "(SVG) in results/DATASET/NAME/, the paper's figures beside the measured ones. Trained models "
    "are shared between experiments; finished runs are not repeated. Each page is written as soon "
    "as its runs are done, and the report with it. `list` prints the names; package.module:NAME is "
    "an experiment of your own.",
    ExperimentContext,
    FURTHER_KEYS,
)


def experiment(arguments: Sequence[str]) -> None:
    """Make experiments as the command line asks for it; EDTError if that is invalid."""
    names: list[str] = []
    given = parse_arguments(arguments, ExperimentContext, names)
    if len(names) != 1:
        raise ConfigError("name one experiment, or say list or all")
    known = load_experiments()
    if names == ["list"]:
        for name, one in known.items():
            print(f"  {name:<12} {one.source:<15} {one.title}")
        return
    module, _, name = names[0].rpartition(":")
    if module:
        sys.path.append(os.getcwd())  # a console script does not look there
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"module '{module}' cannot be imported: {error}") from error
        known = load_experiments()
    if name != "all" and name not in known:
        raise ConfigError(f"unknown experiment '{name}'{nearest(name, known)}")
    context = validate(ExperimentContext, given)
    context.check()
    chosen = known if name == "all" else {name: known[name]}
    for name in chosen:
        check_writable("output_path", context.folder / name / f"{name}.md")
    with run_lock(context.folder):
        make(context, chosen, arguments)


def make(
    context: ExperimentContext, experiments: dict[str, Experiment], arguments: Sequence[str] = ()
) -> list[Path]:
    """Do the runs of experiments, shared ones once, and write and return their pages.

    A page is written as soon as its runs are done, and the report of the data set after it. Pages
    name the ``arguments`` of the command.

    Raises
    ------
    TrainingError
        If runs failed; the pages show the others.
    """
    store, folder, pages = context.store, context.folder, list[Path]()
    names = tqdm(experiments, desc="data sets", unit="experiment", leave=False)
    rows = {name: experiments[name].runs(context) for name in names}
    runs = [run for of_rows in rows.values() for run in flatten(of_rows)]
    done = {store.name(run) for run in runs if store.results(run) is not None}
    waiting = {name: {store.name(run) for run in flatten(rows[name])} for name in rows}
    made = made_by("experiment", arguments, context.training_seeds)

    def write_ready(*finished: str) -> None:
        done.update(finished)
        for name in [name for name, needed in waiting.items() if needed <= done]:
            del waiting[name]
            page = experiments[name].page(context, rows[name])
            pages.append(page.write(folder / name, name, context.note, made))
            write_report(folder, context.dataset)
            tqdm.write(f"written: {pages[-1]}")

    try:
        write_ready()
        label = f"experiments on {context.dataset}"
        failures = execute(store, runs, context.jobs, label, write_ready)
    except KeyboardInterrupt:
        print(f"{len(pages)} of {len(experiments)} pages are written in {folder}", file=sys.stderr)
        raise
    print(f"report: {folder / 'report.html'}")
    check_failures(failures)
    return pages
