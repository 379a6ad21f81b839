"""Settings of the commands of this package, and what experiments work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from recbole_edt.augment.histories import Histories, read_histories
from recbole_edt.errors import DataError
from recbole_edt.experiment.entries import ENTRIES, find_entry
from recbole_edt.experiment.runs import (
    Run,
    Runs,
    RunStore,
    configure,
    keys_for,
    refuse_unknown,
)
from recbole_edt.experiment.variants import Variants
from recbole_edt.io.files import read_yaml
from recbole_edt.io.paths import find_data_root, properties_dir, simulated_note
from recbole_edt.settings import Count, Name, NonNegative, Settings, split_paths

FURTHER_KEYS = "  --KEY=VALUE             any other key goes to every run that knows it\n"
"""Last line of the help of commands that train."""

_MODELS = {entry.model for entry in ENTRIES.values()}


@cache
def read_properties(name: str) -> dict[str, Any]:
    """Read ``properties/experiment/<name>.yaml``."""
    return read_yaml(properties_dir() / "experiment" / f"{name}.yaml")


def grid(name: str) -> Any:
    """What experiments vary, by name (``properties/experiment/grids.yaml``)."""
    return read_properties("grids")[name]


def _split_seeds(value: Any) -> tuple[int, ...]:
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    try:
        seeds = tuple(int(str(part)) for part in parts)
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise ValueError("different whole numbers of at least 0, such as 42,44,46")
    return seeds


Seeds = Annotated[tuple[int, ...], BeforeValidator(_split_seeds)]
"""Different seeds, given as ``42,44,46`` or as a list."""


class ResultsSettings(Settings, use_attribute_docstrings=True):
    """The data set, and the folder of its results."""

    dataset: Name
    """name of the data set"""
    output_path: Name = "results"
    """folder that receives the results, in DATASET/"""

    @property
    def folder(self) -> Path:
        """``<output_path>/<dataset>``."""
        return Path(self.output_path).absolute() / self.dataset


class RunsSettings(ResultsSettings, extra="allow"):
    """Base of the commands that train; keys that are not declared go to the runs."""

    data_path: Name | None = None
    """folder that holds DATASET/ (default: dataset/, then dataset_atomic/)"""
    jobs: Count | None = None
    """trainings at a time (default: one per core, one on a GPU)"""
    report_modes: Any = None
    """further modes to test under (default: uni100, if there are enough items)"""
    config_files: str = ""
    """YAML files of further keys, separated by spaces; keys of the command line win"""

    @cached_property
    def source(self) -> Path:
        """Folder that holds the data set's folder."""
        return Path(self.data_path or find_data_root(self.dataset)).absolute()

    @cached_property
    def note(self) -> str:
        """What figures of simulated data begin with; '' for real data."""
        return simulated_note(self.source / self.dataset)

    @cached_property
    def run_keys(self) -> dict[str, Any]:
        """Keys of the runs; parts of nested ones are dotted."""
        given = {} if self.report_modes is None else {"report_modes": self.report_modes}
        given |= self.model_extra or {}
        if not self.config_files:
            return given
        from recbole_edt.config import NESTED, read_files  # these load RecBole

        of_files: dict[str, Any] = {}
        for key, value in read_files(split_paths(self.config_files)).items():
            parts = value if key in NESTED and isinstance(value, dict) else {}
            of_files |= {f"{key}.{part}": v for part, v in parts.items()} or {key: value}
        return {**of_files, **given}

    @cached_property
    def store(self) -> RunStore:
        """Results of the runs."""
        return RunStore(self.folder / "runs")

    @cached_property
    def variants(self) -> Variants:
        """Augmented variants of the data set."""
        return Variants(self.dataset, self.source, self.folder / "data")

    def is_augmented(self, model: str, keys: Mapping[str, Any]) -> bool:
        """Whether a model reads, with some settings, what augmentation makes.

        That is inserted rows, profiles or vectors of text.
        """
        config = configure(model, self.dataset, keys)
        reads = getattr(config.model_class, "reads_augmentation", False)
        return bool(config["augmentation"] or (reads and config["item_embedding"] != "id"))

    def data_for(self, model: str, keys: Mapping[str, Any]) -> Path:
        """Folder of the data for a model; raw data are augmented first if it reads that."""
        return self.variants.make({}) if self.is_augmented(model, keys) else self.source

    def results(self, runs: Runs) -> dict[str, list[dict[str, Any]]]:
        """Results of finished runs, by row."""
        return {
            row: [found for run in of_row if (found := self.store.results(run)) is not None]
            for row, of_row in runs.items()
        }


class ExperimentContext(RunsSettings):
    """Settings of ``recbole-edt experiment``, and what experiments work with."""

    seeds: Seeds | None = None
    """seeds of training (default: 42,44,46; simulated data: 42)"""
    budget: NonNegative | None = None
    """seconds after which training of a stage ends; 0: no limit (default: 0; simulated data: 12)"""

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Seeds and budget if none are given."""
        return grid("simulated") if self.note else {"seeds": [42, 44, 46], "budget": 0}

    @property
    def training_seeds(self) -> Sequence[int]:
        """The seeds that are given, or the default ones."""
        return self.seeds or self.defaults["seeds"]

    def check(self) -> None:
        """Refuse unknown keys and missing data before anything starts."""
        folder = self.source / self.dataset
        if not (folder / f"{self.dataset}.inter").is_file():
            raise DataError(f"there is no data set in {folder}")
        refuse_unknown(self.run_keys, _MODELS, self.dataset)

    def runs(
        self,
        row: str,
        keys: Mapping[str, Any] | None = None,
        augment: Mapping[str, Any] | None = None,
    ) -> list[Run]:
        """Return the runs of one row, one per seed.

        Parameters
        ----------
        row : str
            A model, ``package.module:Class``, or a row of ``compare``.
        keys : mapping, optional
            Further settings of it, which win over those of the command line.
        augment : mapping, optional
            Keys of ``recbole-edt augment`` that differ from the data set's own.
        """
        entry = find_entry(row)
        given = keys_for(self.run_keys, entry.model, self.dataset, _MODELS)
        settings = {**entry.settings(given), **(keys or {})}
        if augment is None:
            data_path = self.data_for(entry.model, settings)
        else:
            data_path = self.variants.make(augment)
        if budget := self.defaults["budget"] if self.budget is None else self.budget:
            settings["time_limit"] = budget
        data = (self.dataset, data_path)
        return [Run(entry.model, *data, seed, settings) for seed in self.training_seeds]

    @cached_property
    def histories(self) -> Histories:
        """Raw training rows of every user."""
        return read_histories(self.variants.raw() / self.dataset, self.dataset)

    def augmented(self, suffix: str) -> Path:
        """One of the data set's own augmented files."""
        return self.variants.make({}) / self.dataset / f"{self.dataset}{suffix}"

    def grouped(
        self, runs: Sequence[Run], groups: Mapping[str, np.ndarray], mode: str
    ) -> dict[str, list[dict[str, Any]]]:
        """Metrics of ranks of groups of users: group -> reports as in results files, one per run.

        ``groups`` are bool [n_users], by user of :attr:`histories`. Unfinished runs are left out.
        """
        from recbole_edt.evaluation.metrics import RANKS, RankMetrics

        out: dict[str, list[dict[str, Any]]] = {name: [] for name in groups}
        known = self.histories.users.astype(str)
        for run in (run for run in runs if self.store.results(run)):
            metrics = RankMetrics(self.store.config(run), mode, RANKS)
            found = self.store.ranks(run)
            ranks, domains = found[f"test_{mode}"].astype(np.int64), found["test_domains"]
            place = np.searchsorted(known, found["users"].astype(str))
            for name, members in groups.items():
                inside = members[place]
                parts = {
                    domain: metrics.evaluate(ranks[inside & (domains == number)])
                    for number, domain in enumerate(self.histories.domains)
                }
                out[name].append({"overall": metrics.evaluate(ranks[inside]), "domains": parts})
        return out
