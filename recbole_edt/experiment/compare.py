"""``recbole-edt compare``: models under the same protocol in one table (table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole_edt.experiment import runs as running
from recbole_edt.experiment.context import FURTHER_KEYS, RunsSettings, Seeds
from recbole_edt.experiment.entries import Entry, choose
from recbole_edt.experiment.layout import Results, costs_table, protocol_tables
from recbole_edt.experiment.page import Page, made_by
from recbole_edt.experiment.paired import OF_RANKS, gains_of_users, paired_table
from recbole_edt.experiment.tables import Table, escape_markdown, to_markdown
from recbole_edt.io.files import check_writable
from recbole_edt.io.lock import run_lock
from recbole_edt.registry import find_model, is_plugin_model
from recbole_edt.settings import Name, NonNegative, help_text, parse_arguments, validate


class Comparison(RunsSettings):
    """Settings of ``recbole-edt compare``, and what it does."""

    models: Name = "all"
    """names separated by commas, package.module:Class for one of your own; all: the nine baselines
    of the paper, LLMEDT, and SASRec*, GRU4Rec*, BERT4Rec*, which train on all positions at once"""
    seeds: Seeds = (42, 44, 46)
    """training seeds"""
    budget: NonNegative = 600
    """training time in seconds of each run of RecBole's models (sequential ones train on every
    prefix) and of your own classes that are written for RecBole; 0: no limit"""

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Row -> entry."""
        return choose(self.models)

    @cached_property
    def keys(self) -> dict[str, dict[str, Any]]:
        """Row -> settings that differ from the property files."""
        out, models = {}, [entry.model for entry in self.entries.values()]
        for row, entry in self.entries.items():
            given = running.keys_for(self.run_keys, entry.model, self.dataset, models)
            out[row] = entry.settings(given)
            if self.budget and not is_plugin_model(find_model(entry.model)):
                out[row]["time_limit"] = self.budget
        return out

    def runs(self, data_path: Path | None = None) -> running.Runs:
        """Runs of each row, on data as its model reads them or on those that are given."""
        out = {}
        for row, entry in self.entries.items():
            keys = self.keys[row]
            data = (self.dataset, data_path or self.data_for(entry.model, keys))
            out[row] = [running.Run(entry.model, *data, seed, keys) for seed in self.seeds]
        return out

    def check(self) -> None:
        """Refuse bad models, keys and data before anything starts."""
        models = [entry.model for entry in self.entries.values()]
        running.refuse_unknown(self.run_keys, models, self.dataset)
        for run in running.flatten(self.runs(self.source)):
            self.store.name(run)

    def page(self) -> tuple[Page, dict[str, str]]:
        """Do the unfinished runs; lay out one table per protocol, leads over users, and costs.

        Beside the page stands why runs failed, by their names.
        """
        rows = self.runs()
        label = f"compare {self.dataset}"
        failures = running.execute(self.store, running.flatten(rows), self.jobs, label)
        results = self.results(rows)
        if not any(results.values()):
            running.check_failures(failures)
        page = Page("Comparison", tables=protocol_tables(results, self.dataset, "LLMEDT"))
        for table in page.tables[:1]:
            page.add_points("compare", {"": table}, table.best())
        page.tables += self.paired(rows, results)
        page.tables.append(costs_table(self.dataset, results))
        for row, of_row in rows.items():
            for run in of_row:
                if reason := failures.get(self.store.name(run)):
                    note = f"{row}, seed {run.seed}, failed: {reason}"
                    page.tables[0].notes.append(escape_markdown(note))
        return page, failures

    def paired(self, rows: running.Runs, results: Results) -> list[Table]:
        """Test LLMEDT's lead over users at the largest k, one table per protocol.

        None without it and a rival, or without a metric of ``OF_RANKS``.
        """
        done = [row for row, found in results.items() if found]
        if "LLMEDT" not in done or len(done) < 2:
            return []
        first = results["LLMEDT"][0]
        domains, k = list(first["test"]["domains"]), max(first["params"]["topk"])
        metrics = [name for name in map(str.lower, first["params"]["metrics"]) if name in OF_RANKS]
        if not metrics:
            return []
        ranks = {
            row: [self.store.ranks(run) for run in rows[row] if self.store.results(run)]
            for row in done
        }
        tables = []
        for mode in first["protocols"]:
            gains = {row: gains_of_users(ranks[row], mode, metrics, k, domains) for row in done}
            title = f"{self.dataset}, test, {mode}: lead of LLMEDT"
            tables.append(paired_table(title, gains, "LLMEDT"))
        return tables


HELP = help_text(
    "recbole-edt compare --dataset=DATASET [--models=all] [--seeds=42,44,46] [--key=value ...]",
    "Train and test models under one protocol and lay them out in one table, per domain and "
    "overall: means and deviations over seeds, the best bold, the second underlined, LLMEDT's "
    "lead and whether it is significant. Raw data are augmented first. Finished runs are not "
    "repeated. Writes compare.csv, .md, .svg and .tex.",
    Comparison,
    FURTHER_KEYS,
)


def compare(arguments: Sequence[str]) -> None:
    """Compare models as the command line asks for it, and print the tables.

    EDTError if that is invalid or a run failed; the tables show the others.
    """
    comparison = validate(Comparison, parse_arguments(arguments, Comparison))
    comparison.check()
    check_writable("output_path", comparison.folder / "compare.md")
    with run_lock(comparison.folder):
        page, failures = comparison.page()
        made = made_by("compare", arguments, comparison.seeds)
        page.write(comparison.folder, "compare", comparison.note, made)
    if comparison.note:
        print(comparison.note, end="\n\n")
    print("\n".join(map(to_markdown, page.tables)))
    print(f"written: {comparison.folder}/compare.csv, .md, .svg, .tex")
    running.check_failures(failures)
