"""``recbole-edt search``: settings that validate best, from a grid or by Bayesian optimisation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from recbole_edt.config import take_names
from recbole_edt.errors import ConfigError
from recbole_edt.evaluation.report import check_writable
from recbole_edt.experiment.runs import (
    Run,
    RunStore,
    check_failures,
    execute,
    refuse_unknown,
    take_jobs,
    take_places,
)
from recbole_edt.experiment.tables import Table, to_markdown, write_tables
from recbole_edt.io.lock import run_lock
from recbole_edt.settings import parse_arguments

HELP = """\
usage: recbole-edt search --model=M --dataset=D --space=SPACE [--key=value ...]

Train with many settings and lay out which validate best; the test set plays no part. What is done
is not done again: the same command goes on, and shares its runs with compare and experiment.

  --space="{'dropout': [0.1, 0.5], 'learning_rate': {'low': 0.0001, 'high': 0.01, 'log': True}}"
                          lists of choices, and ranges (whole numbers where both ends are), or a
                          YAML file of them
  --method=grid|bayes     every combination of lists (default), or a tree-structured Parzen
                          estimator (optuna: pip install "recbole-edt[search]")
  --trials=20             of bayes
  --batch=4               settings that bayes chooses at a time, knowing those before
  --metric=ndcg@10        of validation, overall
  --seed=42               of training, and of bayes
  --data_path=IN  --output_path=results  --jobs=N
  --KEY=VALUE             any other key of every run
"""

Space = Mapping[str, Any]
"""Key -> list of choices, or ``{low, high, log}``."""


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes
    ----------
    model, dataset : str
        Names.
    data_path : Path
        Folder that holds the data set's folder.
    folder : Path
        ``<output_path>/<dataset>``.
    space : mapping
        Key -> list of choices, or ``{low, high, log}``.
    keys : mapping
        Settings of every run.
    metric : str
        Of validation, overall; the larger the better.
    seed : int
        Of training and of the sampler.
    trials, batch : int
        Settings that are tried by ``bayes``, in all and at a time.
    jobs : int, optional
        Trainings at a time.
    """

    model: str
    dataset: str
    data_path: Path
    folder: Path
    space: Space
    keys: Mapping[str, Any]
    metric: str = "ndcg@10"
    seed: int = 42
    trials: int = 20
    batch: int = 4
    jobs: int | None = None

    @cached_property
    def store(self) -> RunStore:
        """Where runs lie."""
        return RunStore(self.folder / "runs")

    def run_of(self, chosen: Mapping[str, Any]) -> Run:
        """Return the run of some settings."""
        keys = {**self.keys, **chosen}
        return Run(self.model, self.dataset, self.data_path, self.seed, keys)

    def measure(self, chosen: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """Train with settings and return their validation metric; None for a run that failed.

        Raises
        ------
        TrainingError
            If all of them failed.
        """
        store, runs = self.store, [self.run_of(settings) for settings in chosen]
        failures = execute(store, runs, self.jobs, f"search {self.model}")
        if len(failures) == len({store.name(run) for run in runs}):
            check_failures(failures)
        results = [store.results(run) for run in runs]
        return [None if one is None else one["valid"]["overall"][self.metric] for one in results]


def grid(search: Search) -> Iterator[tuple[dict[str, Any], float | None]]:
    """Try every combination of the choices.

    Raises
    ------
    ConfigError
        If the space has a range.
    """
    for key, values in search.space.items():
        if not isinstance(values, list):
            raise ConfigError(f"a grid needs choices for '{key}': a range takes --method=bayes")
    names = list(search.space)
    chosen = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*search.space.values())
    ]
    yield from zip(chosen, search.measure(chosen), strict=True)


def bayes(search: Search) -> Iterator[tuple[dict[str, Any], float | None]]:
    """Try settings that a tree-structured Parzen estimator chooses, some at a time.

    Its choices depend on the seed and on what was measured before alone, so that a search that was
    stopped comes by the same runs again, finds them done, and goes on.

    Raises
    ------
    ConfigError
        If optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            '--method=bayes needs optuna: pip install "recbole-edt[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=2 * search.batch)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    left = search.trials
    while left > 0:
        trials = [study.ask() for _ in range(min(search.batch, left))]
        chosen = [suggest(trial, search.space) for trial in trials]
        for trial, settings, value in zip(trials, chosen, search.measure(chosen), strict=True):
            state = optuna.trial.TrialState.FAIL if value is None else None
            study.tell(trial, value, state=state)
            yield settings, value
        left -= len(trials)


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Let an optuna trial choose a value for every key of a space."""
    out: dict[str, Any] = {}
    for key, values in space.items():
        if isinstance(values, list):
            if _ordered(values):
                place = trial.suggest_int(key, 0, len(values) - 1)
            else:
                place = trial.suggest_categorical(key, list(range(len(values))))
            out[key] = values[place]
            continue
        low, high, log = values["low"], values["high"], values.get("log", False)
        whole = isinstance(low, int) and isinstance(high, int)
        choose = trial.suggest_int if whole else trial.suggest_float
        out[key] = choose(key, low, high, log=log)
    return out


def _ordered(values: Sequence[Any]) -> bool:
    """Tell whether choices are numbers in ascending order: neighbours are then alike."""
    numbers = all(type(value) in (int, float) for value in values)
    return numbers and list(values) == sorted(values)


METHODS = {"grid": grid, "bayes": bayes}


def parse_space(given: Any) -> dict[str, Any]:
    """Read a space from a mapping, or from a YAML file.

    Raises
    ------
    ConfigError
        If it is neither, or a key has neither choices nor a range.
    """
    if isinstance(given, str) and Path(given).is_file():
        try:
            given = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"space {given} is not valid YAML") from error
    if not isinstance(given, dict) or not given:
        raise ConfigError("--space is a mapping of keys to choices or ranges, or a YAML file of it")
    for key, values in given.items():
        if not _is_choices(values) and not _is_range(values):
            raise ConfigError(f"space of '{key}' is neither a list of choices nor {{low, high}}")
    return given


def _is_choices(values: Any) -> bool:
    return isinstance(values, list) and bool(values)


def _is_range(values: Any) -> bool:
    if not isinstance(values, dict) or not {"low", "high"} <= set(values) <= {"low", "high", "log"}:
        return False
    low, high = values["low"], values["high"]
    numbers = all(type(end) in (int, float) for end in (low, high))
    return numbers and low < high and (not values.get("log") or low > 0)


def search(arguments: Sequence[str]) -> None:
    """Search as the command line asks for it, and print what validates best.

    Raises
    ------
    EDTError
        For anything the user has to mend.
    """
    wanted, method = read_search(parse_arguments(arguments))
    check_writable("output_path", wanted.folder / "search" / f"{wanted.model}.md")
    with run_lock(wanted.folder):
        tried = list(METHODS[method](wanted))
    table = lay_out(wanted, tried)
    write_tables(wanted.folder / "search", wanted.model, [table])
    print(to_markdown(table))
    best = max((one for one in tried if one[1] is not None), key=lambda one: one[1] or 0.0)
    print("best: " + " ".join(f"--{key}={value}" for key, value in best[0].items()))


def lay_out(wanted: Search, tried: Sequence[tuple[dict[str, Any], float | None]]) -> Table:
    """Make a table of what was tried, best first."""
    metric = f"validation {wanted.metric}"
    table = Table(f"{wanted.model} on {wanted.dataset}", [metric])
    for settings, value in sorted(tried, key=lambda one: -(one[1] or 0.0)):
        row = ", ".join(
            f"{key} {v:.4g}" if isinstance(v, float) else f"{key} {v}"
            for key, v in settings.items()
        )
        table.add(row, metric, [] if value is None else [value])
    table.notes.append(f"Seed {wanted.seed}; the test set played no part.")
    return table


def read_search(given: dict[str, Any]) -> tuple[Search, str]:
    """Turn arguments into a search and its method.

    Raises
    ------
    ConfigError
        For anything the user has to mend.
    """
    given = dict(given)
    model, dataset = take_names(given, "model", "dataset")
    method = given.pop("method", "grid")
    if method not in METHODS:
        raise ConfigError(f"method '{method}' is not one of {', '.join(METHODS)}")
    counts = {key: given.pop(key, default) for key, default in (("trials", 20), ("batch", 4))}
    for key, count in counts.items():
        if type(count) is not int or count < 1:
            raise ConfigError(f"{key} must be a whole number of at least 1, not '{count}'")
    space, jobs = parse_space(given.pop("space", None)), take_jobs(given)
    metric, seed = str(given.pop("metric", "ndcg@10")).lower(), int(given.pop("seed", 42))
    data_path, folder = take_places(given, dataset)
    refuse_unknown((*space, *given), [model], dataset)
    wanted = Search(
        model,
        dataset,
        data_path,
        folder,
        space,
        metric=metric,
        seed=seed,
        jobs=jobs,
        keys=given,
        **counts,
    )
    first = {key: v[0] if isinstance(v, list) else v["low"] for key, v in space.items()}
    wanted.store.name(wanted.run_of(first))  # whatever a run would be refused for is refused now
    return wanted, method
