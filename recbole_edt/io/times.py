"""Unix times of any unit."""

from __future__ import annotations

from typing import Any

import numpy as np

UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
PER_SECOND = np.array([1.0, 1e3, 1e6, 1e9])
SPAN = (631_152_000, 4_102_444_800)
"""Seconds from 1990 to 2100: other numbers are no Unix times."""

# from these on (the year 5138 in seconds), the unit is the next finer one
_FROM = (1e11, 1e14, 1e17)


def unix_unit(numbers: Any) -> Any:
    """Place in :data:`UNITS` of the unit that the size of each Unix time tells."""
    return np.digitize(numbers, _FROM)
