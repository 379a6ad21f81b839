"""Memory of CPU tensors: glibc keeps what a batch frees for the next one."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory(largest: int = 32 << 20, spare: int = 512 << 20) -> bool:
    """Stop glibc from returning freed blocks, which the next batch would have to fault in again.

    It keeps blocks of up to ``largest`` bytes, ``spare`` bytes in all. False without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl
        return False
    return bool(mallopt(_MMAP_THRESHOLD, largest)) and bool(mallopt(_TRIM_THRESHOLD, spare))
