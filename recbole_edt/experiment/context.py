"""What experiments work with: a data set and its variants, runs, groups of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recbole_edt.augment.histories import Histories, read_histories
from recbole_edt.errors import DataError
from recbole_edt.evaluation.metrics import summarise
from recbole_edt.experiment.entries import ENTRIES, find_entry
from recbole_edt.experiment.pages import grid
from recbole_edt.experiment.runs import Run, Runs, keys_for, refuse_unknown
from recbole_edt.experiment.settings import RunsSettings, Seeds
from recbole_edt.settings import NonNegative


class ExperimentContext(RunsSettings):
    """Settings of ``recbole-edt experiment``, and what experiments work with."""

    seeds: Seeds | None = None
    """of training (default: 42,44,46; simulated data: 42)"""
    budget: NonNegative | None = None
    """seconds after which training of a stage ends; 0: no limit (default: 0; simulated data: 12)"""

    def check(self) -> None:
        """Refuse bad keys and data before anything starts.

        Raises
        ------
        EDTError
            If a key is unknown or the data set is missing.
        """
        folder = self.source / self.dataset
        if not (folder / f"{self.dataset}.inter").is_file():
            raise DataError(f"there is no data set in {folder}")
        refuse_unknown(self.run_keys, {one.model for one in ENTRIES.values()}, self.dataset)

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        simulated = (self.source / self.dataset / "SIMULATED").is_file()
        return grid("simulated") if simulated else {"seeds": [42, 44, 46], "budget": 0}

    def runs(
        self,
        row: str,
        keys: Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
    ) -> list[Run]:
        """Return the runs of one row.

        Parameters
        ----------
        row : str
            A model, or a row of ``compare``.
        keys : mapping, optional
            Further settings of it.
        augment : mapping, optional
            Keys of ``recbole-edt augment`` that differ from the data set's own.
        """
        entry = find_entry(row)
        raw = entry.raw and augment is None
        data_path = self.variants.raw() if raw else self.variants.make(augment or {})
        given = keys_for(self.run_keys, entry.model, self.dataset)
        settings = {**entry.keys, **(keys or {}), **given}
        if budget := self._defaults["budget"] if self.budget is None else self.budget:
            settings["time_limit"] = budget
        seeds = self.seeds or self._defaults["seeds"]
        return [Run(entry.model, self.dataset, data_path, seed, settings) for seed in seeds]

    def results(self, runs: Runs) -> dict[str, list[dict[str, Any]]]:
        """Results of those runs that are done, by row."""
        return self.store.results_of(runs)

    @cached_property
    def histories(self) -> Histories:
        """Raw training rows of every user."""
        return read_histories(self.variants.raw() / self.dataset, self.dataset)

    def augmented(self, suffix: str) -> Path:
        """One of the data set's own augmented files."""
        return self.variants.make({}) / self.dataset / f"{self.dataset}{suffix}"

    def grouped(
        self, runs: Sequence[Run], groups: Mapping[str, np.ndarray], mode: str | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """Report the metrics of groups of users.

        Parameters
        ----------
        runs : sequence of Run
            Unfinished ones are left out.
        groups : mapping
            Name -> bool [n_users], by user of :attr:`histories`.
        mode : str, optional
            Protocol; by default each run's main one.

        Returns
        -------
        dict
            Group -> one report per run, as in a results file.
        """
        out: dict[str, list[dict[str, Any]]] = {name: [] for name in groups}
        known = self.histories.users.astype(str)
        for run in runs:
            results = self.store.results(run)
            if results is None:
                continue
            ranks = self.store.ranks(run)
            metrics = [name for name in results["test"]["overall"] if name != "n"]
            mine = ranks[f"test_{mode or results['protocol']}"].astype(np.int64)
            place = np.searchsorted(known, ranks["users"].astype(str))
            for name, members in groups.items():
                inside = members[place]
                parts = {
                    domain: summarise(mine[inside & (ranks["test_domains"] == number)], metrics)
                    for number, domain in enumerate(self.histories.domains)
                }
                out[name].append({"overall": summarise(mine[inside], metrics), "domains": parts})
        return out
