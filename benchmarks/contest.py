"""What contests of epochs and of evaluations share: options, fair turns and medians."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping


def take_turns(rounds: int, entries: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Let entries run in turn, so that a busy moment of the machine hits all alike.

    Parameters
    ----------
    rounds : int
        How often each runs.
    entries : mapping
        Name -> function that runs once and returns the seconds that count.

    Returns
    -------
    dict
        Name -> seconds of each round.
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
    """Make a parser of the options that all contests have."""
    assert description is not None
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data_path", default="dataset_atomic")
    parser.add_argument("--datasets", nargs="+", default=["cloth_sport"])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    return parser
