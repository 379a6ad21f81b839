"""Memory of CPU tensors: glibc keeps what a batch frees for the next one."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST, _SPARE = 32 << 20, 512 << 20  # bytes that are kept: of a block, and in all


def keep_freed_memory() -> None:
    """Stop glibc from returning freed blocks, which the next batch would have to fault in again."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # musl
            mallopt = ctypes.CDLL(None).mallopt
            if mallopt(_MMAP_THRESHOLD, _LARGEST):
                mallopt(_TRIM_THRESHOLD, _SPARE)
