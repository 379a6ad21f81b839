"""Settings that the commands of this room share."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict

from recbole_edt.experiment.runs import RunStore
from recbole_edt.experiment.variants import Variants
from recbole_edt.io.paths import find_data_root
from recbole_edt.settings import Count, Name, Settings


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


class ResultsSettings(Settings):
    """Which data set, and where its results lie."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dataset: Name
    """name of the data set"""
    output_path: Name = "results"
    """folder that receives the results, in DATASET/"""

    @property
    def folder(self) -> Path:
        """``<output_path>/<dataset>``."""
        return Path(self.output_path).absolute() / self.dataset


class RunsSettings(ResultsSettings):
    """Base of the commands that train; keys that are not declared go to the runs."""

    model_config = ConfigDict(extra="allow")

    data_path: Name | None = None
    """folder that holds DATASET/ (default: dataset/, then dataset_atomic/)"""
    jobs: Count | None = None
    """trainings at a time (default: one per core, one on a GPU)"""
    report_modes: Any = ["full"]
    """further protocols to test under"""

    @cached_property
    def source(self) -> Path:
        """Folder that holds the data set's folder."""
        return Path(self.data_path or find_data_root(self.dataset)).absolute()

    @property
    def run_keys(self) -> dict[str, Any]:
        """Keys of the runs."""
        return {"report_modes": self.report_modes, **(self.model_extra or {})}

    @cached_property
    def store(self) -> RunStore:
        """Results of the runs."""
        return RunStore(self.folder / "runs")

    @cached_property
    def variants(self) -> Variants:
        """Augmented variants of the data set."""
        return Variants(self.dataset, self.source, self.folder / "data")


FURTHER_KEYS = "  --KEY=VALUE             any other key goes to every run that knows it\n"
"""Last line of the help of commands that train."""
