"""``recbole-edt search``: settings that validate best, from a grid or by Bayesian optimisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
import yaml
from optuna import distributions, samplers
from pydantic import BeforeValidator

from recbole_edt.errors import ConfigError
from recbole_edt.experiment.context import FURTHER_KEYS, RunsSettings
from recbole_edt.experiment.page import Page, made_by
from recbole_edt.experiment.runs import Run, check_failures, configure, execute, refuse_unknown
from recbole_edt.experiment.tables import Table, escape_markdown, to_markdown
from recbole_edt.io.files import check_writable, read_yaml
from recbole_edt.io.lock import run_lock
from recbole_edt.registry import short_name
from recbole_edt.settings import Amount, Count, Name, help_text, parse_arguments, shell, validate

Trial = tuple[dict[str, Any], float | None]
"""Settings, and their validation metric; None if the run failed."""


def _read_space(given: Any) -> dict[str, Any]:
    """Read a space, from a YAML file if it names one; refuse keys that have no distribution."""
    try:
        if isinstance(given, str):
            given = read_yaml(given)
        if not given or not all(_distribution(values) for values in given.values()):
            raise ValueError("an empty space")
    except (OSError, AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            "a mapping of keys to lists of choices or ranges {low, high, log}, or a YAML file of it"
        ) from error
    return given


def _distribution(values: Any) -> distributions.BaseDistribution:
    """Distribution of a range, or of the places in a list of choices."""
    if isinstance(values, list):
        numbers = all(type(value) in (int, float) for value in values)
        if values and numbers and values == sorted(values):  # neighbours are alike
            return distributions.IntDistribution(0, len(values) - 1)
        return distributions.CategoricalDistribution(range(len(values)))
    ends = {type(values[end]) for end in ("low", "high")}
    if not ends <= {int, float} or values["low"] >= values["high"]:
        raise ValueError("no range")
    whole = ends == {int}
    return (distributions.IntDistribution if whole else distributions.FloatDistribution)(**values)


def _in_words(chosen: Mapping[str, Any]) -> str:
    pairs = (f"{k} {v:.4g}" if type(v) is float else f"{k} {v}" for k, v in chosen.items())
    return ", ".join(pairs)


class Search(RunsSettings):
    """Settings of ``recbole-edt search``, and what it does."""

    model: Name
    """model, or package.module:Class"""
    space: Annotated[dict[str, Any], BeforeValidator(_read_space)]
    """key -> list of choices, or range {low, high, log} of whole numbers if both ends are, such as
    "{'dropout': [0.1, 0.5], 'learning_rate': {'low': 0.0001, 'high': 0.01, 'log': True}}"; or a
    YAML file of it"""
    method: Literal["grid", "bayes"] = "grid"
    """every combination of lists, or a tree-structured Parzen estimator"""
    trials: Count = 20
    """settings tried with --method=bayes"""
    batch: Count = 4
    """settings that bayes proposes at a time"""
    metric: Name | None = None
    """metric of validation, overall (default: valid_metric)"""
    seed: Amount = 42
    """seed of training, and of the sampler"""

    def check(self) -> None:
        """Refuse bad settings before anything starts."""
        refuse_unknown((*self.space, *self.run_keys), [self.model], self.dataset)
        ranges = [key for key, values in self.space.items() if not isinstance(values, list)]
        if ranges and self.method == "grid":
            raise ConfigError(
                f"a grid needs choices for '{ranges[0]}': a range takes --method=bayes"
            )
        first = {key: v["low"] if key in ranges else v[0] for key, v in self.space.items()}
        self.store.name(self.run_of(first, self.source))
        from recbole_edt.evaluation.metrics import RankMetrics

        names = RankMetrics(self.config, self.config["eval_args"]["mode"]["test"]).names
        if self.measured not in names:
            raise ConfigError(f"metric must be one of {', '.join(names)}, not '{self.measured}'")

    @cached_property
    def config(self) -> Any:
        """Configuration of the runs, without what is searched."""
        return configure(self.model, self.dataset, self.run_keys)

    @property
    def measured(self) -> str:
        """Name of the metric in results files."""
        return (self.metric or self.config["valid_metric"]).lower()

    @cached_property
    def smaller(self) -> bool:
        """Whether smaller values of the metric are better."""
        from recbole_edt.evaluation.metrics import smaller_is_better

        return smaller_is_better(self.measured)

    def run_of(self, chosen: Mapping[str, Any], data_path: Path | None = None) -> Run:
        """Run with some settings, on data as its model reads them or on those that are given."""
        keys = {**self.run_keys, **chosen}
        data_path = data_path or self.data_for(self.model, keys)
        return Run(self.model, self.dataset, data_path, self.seed, keys)

    @cached_property
    def failures(self) -> dict[str, str]:
        """Settings in words -> why they could not be trained."""
        return {}

    def measure(self, chosen: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """Train with settings and return their validation metric; None for what failed.

        TrainingError if all of them failed.
        """
        runs, failures = dict[int, Run](), dict[str, str]()  # by place, as words are rounded
        for place, settings in enumerate(chosen):
            try:
                run = self.run_of(settings)
                self.store.name(run)
            except ConfigError as error:  # values that do not go together
                failures[_in_words(settings)] = str(error)
            else:
                runs[place] = run
        failed = execute(self.store, list(runs.values()), self.jobs, f"search {self.model}")
        for place, run in runs.items():
            if reason := failed.get(self.store.name(run)):
                failures[_in_words(chosen[place])] = reason
        if all(self.store.name(run) in failed for run in runs.values()):
            check_failures(failures)
        self.failures.update(failures)
        results = {place: self.store.results(run) for place, run in runs.items()}
        found = map(results.get, range(len(chosen)))
        return [None if one is None else one["valid"]["overall"][self.measured] for one in found]

    def tried(self) -> Iterator[Trial]:
        """Try settings that the sampler chooses, ``batch`` at a time; a grid's all together.

        Its choices depend on the seed and on earlier results alone: the same search repeats them
        and reuses finished runs.
        """
        sampler: samplers.BaseSampler
        if self.method == "grid":
            places = {key: list(range(len(values))) for key, values in self.space.items()}
            sampler = samplers.GridSampler(places, seed=self.seed)
            sizes = [math.prod(map(len, places.values()))]
        else:
            sampler = samplers.TPESampler(seed=self.seed, n_startup_trials=2 * self.batch)
            starts = range(0, self.trials, self.batch)
            sizes = [min(self.batch, self.trials - start) for start in starts]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            direction="minimize" if self.smaller else "maximize", sampler=sampler
        )
        space = {key: _distribution(values) for key, values in self.space.items()}
        for number, size in enumerate(sizes):
            asked = [study.ask(space) for _ in range(size)]
            chosen = [
                {k: self.space[k][v] if type(self.space[k]) is list else v
                 for k, v in trial.params.items()}
                for trial in asked
            ]  # fmt: skip
            values = self.measure(chosen)
            yield from zip(chosen, values, strict=True)
            if number + 1 < len(sizes):  # a grid has nothing more to choose: telling it raises
                for trial, value in zip(asked, values, strict=True):
                    failed = optuna.trial.TrialState.FAIL if value is None else None
                    study.tell(trial, value, state=failed)

    def table(self, tried: Sequence[Trial]) -> Table:
        """Lay out what was tried."""
        metric = f"validation {self.measured}"
        table = Table(f"{self.model} on {self.dataset}", [metric])
        table.smaller = {metric} if self.smaller else ()
        for chosen, value in tried:
            table.add_rows({(row := _in_words(chosen)): [value]})
            if row in self.failures:
                table.notes.append(escape_markdown(f"{row}: failed: {self.failures[row]}"))
        table.notes.append(f"Seed {self.seed}; the test set is not used.")
        return table


HELP = help_text(
    "recbole-edt search --model=M --dataset=D --space=SPACE [--key=value ...]",
    "Train with many settings and lay out which validate best; the test set is not used. Raw "
    "data are augmented first for a model that reads that. Finished runs are not repeated: the "
    "same command goes on, and shares its runs with compare (without a budget there).",
    Search,
    FURTHER_KEYS,
)


def search(arguments: Sequence[str]) -> None:
    """Search as the command line asks for it, and print what validates best.

    EDTError if that is invalid, or if all runs failed.
    """
    one = validate(Search, parse_arguments(arguments, Search))
    one.check()
    folder = one.folder / "search"
    name = short_name(one.model)
    check_writable("output_path", folder / f"{name}.md")
    with run_lock(one.folder):
        tried = list(one.tried())
    sign = 1 if one.smaller else -1  # best first, failed runs last
    tried.sort(key=lambda trial: math.inf if trial[1] is None else sign * trial[1])
    table = one.table(tried)
    page = Page(f"Search: {name}", tables=[table])
    page.write(folder, name, one.note, made_by("search", arguments, [one.seed]))
    if one.note:
        print(one.note, end="\n\n")
    print(to_markdown(table))
    print("best: " + shell(*(f"--{key}={value}" for key, value in tried[0][0].items())))
