"""Memory of CPU tensors: glibc keeps what a batch frees for the next one."""

from __future__ import annotations

import ctypes
import sys

_MIB = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of the settings in ``malloc.h``."""


def keep_freed_memory(largest: int = 32 * _MIB, spare: int = 512 * _MIB) -> bool:
    """Stop glibc from returning freed blocks to the system, only to fault them in again.

    Parameters
    ----------
    largest : int
        Bytes of the largest block that is kept.
    spare : int
        Free bytes that are kept at most.

    Returns
    -------
    bool
        Whether the C library is a glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return bool(mallopt(_MMAP_THRESHOLD, largest)) and bool(mallopt(_TRIM_THRESHOLD, spare))
