"""Freed memory is kept for the next batch, where the C library can be told so."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from recbole_edt.trainer.allocator import keep_freed_memory

told = keep_freed_memory(64 << 20, 1 << 29) if sys.argv[1] == "kept" else True
def batch():
    return len([torch.ones(10 << 20) for _ in range(2)])  # 40 MiB: glibc never keeps these
for _ in range(3):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[bool, int]:
    """Pages that 10 batches of 80 MiB find missing."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    told, pages = done.stdout.split()
    return told == "True", int(pages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_batches_find_the_memory_of_the_last_one() -> None:
    told, kept = faults("kept")
    if not told:
        pytest.skip("another C library than glibc")
    _, returned = faults("returned")
    assert kept < returned / 10
    assert returned > 100_000
