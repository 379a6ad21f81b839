"""The number of compute threads, and how they wait, on a machine that other processes use.

torch's threads synchronise at the end of every operation. If another process needs a core, all of
them wait for the thread that shares it, and OpenMP's waiting loop occupies the cores.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_SPINS = "200000"  # turns of OpenMP's waiting loop: longer than the gaps inside an epoch
_SHORTEST = 0.1  # seconds; the system counts in hundredths


def limit_spinning() -> None:
    """Let waiting threads sleep after a moment; call it before torch is loaded."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


class Threads:
    """Compute threads of a run: as many as there are cores that no other process uses.

    Their number stays if it is ``fixed``, or given by ``OMP_NUM_THREADS``. The last digits of sums
    depend on it: only a fixed number repeats them exactly.
    """

    def __init__(self, fixed: bool = False) -> None:
        import torch

        self.most = torch.get_num_threads()
        self.fixed = fixed or "OMP_NUM_THREADS" in os.environ or self.most == 1
        self._mark = _usage()

    def choose(self) -> int:
        """Set the number of threads by the load since the last call."""
        import torch

        if not self.fixed:
            time.sleep(max(0.0, _SHORTEST - (time.perf_counter() - self._mark[0])))
            last, self._mark = self._mark, _usage()
            seconds, busy, own = (now - then for now, then in zip(self._mark, last, strict=True))
            free = min(len(_cores()) - (busy - own) / seconds, _quota())
            torch.set_num_threads(max(1, min(self.most, round(free))))
        return torch.get_num_threads()

    def restore(self) -> None:
        """Restore the previous number."""
        import torch

        torch.set_num_threads(self.most)


def _cores() -> list[int]:
    """Cores that this process may use."""
    import psutil

    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return process.cpu_affinity()
    return list(range(os.cpu_count() or 1))


def _usage() -> tuple[float, float, float]:
    """Clock; seconds that these cores have worked; seconds of them for this process."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    busy = 0.0
    for core in _cores():  # without `nice`: processes of low priority give way
        busy += times[core].user + times[core].system + getattr(times[core], "steal", 0.0)
    return time.perf_counter(), busy, time.process_time()


def _quota() -> float:
    """Cores that a container may use at a time."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # not Linux, or "max"
        return float("inf")
