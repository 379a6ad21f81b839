"""How the C library of Linux hands out the memory of tensors on the CPU."""

from __future__ import annotations

import ctypes
import sys

_MIB = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of the settings in ``malloc.h``."""


def keep_freed_memory(largest: int = 32 * _MIB, spare: int = 512 * _MIB) -> bool:
    """Let the process keep what a batch frees for the next one.

    glibc returns large blocks to the system as soon as they are freed. The next batch, which asks
    for the same ones, then finds its memory missing page by page, in the middle of a product.

    Parameters
    ----------
    largest : int
        Bytes of a block up to which it is kept; tables, which are larger, come and go as before.
    spare : int
        Free bytes that are kept at most.

    Returns
    -------
    bool
        Whether there is a glibc to tell.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return bool(mallopt(_MMAP_THRESHOLD, largest)) and bool(mallopt(_TRIM_THRESHOLD, spare))
