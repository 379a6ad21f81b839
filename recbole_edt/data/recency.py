"""Weights of training targets by their age, where what is bought changes with time."""

from __future__ import annotations

from typing import Literal

import numpy as np

from recbole_edt.data.sequences import Sequences
from recbole_edt.io.times import PER_SECOND, SPAN, unix_unit

_DAY_S = 86_400.0
_OLD_SHARE = 0.1  # weight of the oldest rows, as a share of the newest row's
HALF_LIVES = (365.0, 120.0, 60.0)
"""Days that ``auto`` chooses from."""


def recency_weights(
    rows: Sequences, item_domain: np.ndarray, half_life: float | Literal["auto"]
) -> tuple[np.ndarray, list[float]]:
    """Weights of training rows in the losses, which halve with their age.

    A row ``age`` days before the newest weighs ``0.1 + 0.9 * 2 ** (-age / half_life)``, scaled to
    a mean of one within its domain.

    Parameters
    ----------
    rows : Sequences
        Training rows, with timestamps in seconds, or Unix times of one finer unit.
    item_domain : np.ndarray
        int64 [n_items]; domain of each item, -1 for the padding item.
    half_life : float or "auto"
        Days; 0 for equal weights. ``auto`` is what :func:`drift` finds, for each domain.

    Returns
    -------
    weights : np.ndarray
        float32 [n_rows]; exactly one in a domain without a half-life, and everywhere if all rows
        are of one day, as numbers in place of times are.
    half_lives : list of float
        Days, or 0, for each domain.
    """
    weights, found = np.ones(len(rows.items)), []
    per_day = _DAY_S * _per_second(rows.timestamps)
    age = (rows.timestamps.max(initial=-np.inf) - rows.timestamps) / per_day
    for domain in range(item_domain.max(initial=-1) + 1):
        inside = item_domain[rows.items] == domain
        days = 0.0
        if age.max(initial=0.0) >= 1.0 and inside.any():
            days = drift(rows, inside, age) if half_life == "auto" else float(half_life)
        if days:
            weights[inside] = _decayed(age[inside], days)
        found.append(days)
    return weights.astype(np.float32), found


def _per_second(times: np.ndarray) -> float:
    """How many units of the times are a second; the median tells, one if it is no Unix time."""
    median = np.median(times) if len(times) else 0.0
    per_second = PER_SECOND[unix_unit(median)]
    return per_second if SPAN[0] <= median / per_second <= SPAN[1] else 1.0


def _decayed(age: np.ndarray, half_life: float) -> np.ndarray:
    weights = _OLD_SHARE + (1.0 - _OLD_SHARE) * 2.0 ** (-age / half_life)
    return weights / weights.mean()


def drift(rows: Sequences, inside: np.ndarray, age: np.ndarray) -> float:
    """Half-life with which the other rows of a domain tell best what its users bought last.

    Popularity, counted with one of :data:`HALF_LIVES` or with equal weights and with one more row
    for each item, is the likelihood of each user's last raw row of the domain. 0 if no half-life
    raises its logarithm by more than two standard errors.

    Parameters
    ----------
    rows : Sequences
        Training rows.
    inside : np.ndarray
        bool [n_rows]; rows of the domain.
    age : np.ndarray
        float64 [n_rows]; days.
    """
    raw = np.flatnonzero(inside & ~rows.augmented)
    last = np.diff(rows.users[raw], append=-1) != 0
    others, targets = raw[~last], rows.items[raw[last]]
    if not len(others):
        return 0.0
    equal = np.bincount(rows.items[others], minlength=rows.items.max() + 1)
    best, chosen = 0.0, 0.0
    for half_life in HALF_LIVES:
        weights = _decayed(age[others], half_life)
        counts = np.bincount(rows.items[others], weights, minlength=len(equal))
        gain = np.log1p(counts[targets]) - np.log1p(equal[targets])
        if gain.mean() > max(best, 2.0 * gain.std() / np.sqrt(len(gain))):
            best, chosen = gain.mean(), half_life
    return chosen
