"""Helpers of the timing scripts: options, turns and medians."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping


def take_turns(rounds: int, entries: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run entries in turn, so that load on the machine affects all of them equally.

    ``entries`` maps names to functions that run once and return the seconds that count; the result
    maps the names to the seconds of each round.
    """
    times: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, run in entries.items():
            times[name].append(run())
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds of each entry."""
    return {name: statistics.median(values) for name, values in times.items()}


def make_parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Make a parser of the common options."""
    assert description is not None
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data_path", default="dataset_atomic")
    parser.add_argument("--datasets", nargs="+", default=["cloth_sport"])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    return parser
