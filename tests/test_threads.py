"""The number of compute threads: what other processes leave of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from recbole_edt import threads

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def machine(monkeypatch):
    """Four cores, whose use a test sets: seconds of all processes, and of those of low priority."""
    now = SimpleNamespace(clock=100.0, busy=[0.0] * 4, nice=0.0, own=0.0, cores=[0, 1, 2, 3])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now.clock)
    monkeypatch.setattr(threads.time, "process_time", lambda: now.own)
    monkeypatch.setattr(threads, "_cores", lambda: now.cores)
    monkeypatch.setattr(threads, "_quota", lambda: float("inf"))
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [
        SimpleNamespace(user=busy, system=0.0, nice=now.nice, idle=0.0) for busy in now.busy
    ])  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield now
    torch.set_num_threads(before)


def after_ten_seconds(machine, others: float, own: float) -> None:
    machine.clock += 10
    machine.own += own
    machine.busy = [busy + (10 * others + own) / 4 for busy in machine.busy]
    machine.nice += 10


@pytest.mark.parametrize(
    ("others", "own", "expected"),
    [(0.0, 40.0, 4), (0.3, 37.0, 4), (1.0, 30.0, 3), (2.0, 20.0, 2), (4.0, 0.0, 1), (9.0, 0.0, 1)],
)
def test_it_is_what_others_leave(machine, others, own, expected):
    chosen = threads.Threads()
    after_ten_seconds(machine, others, own)
    assert chosen.choose() == torch.get_num_threads() == expected
    after_ten_seconds(machine, 0.0, 10.0)
    assert chosen.choose() == 4, "the load is over"
    chosen.restore()
    assert torch.get_num_threads() == 4


def test_a_containers_quota_bounds_it_and_a_fixed_number_stays(machine, monkeypatch):
    chosen = threads.Threads()
    monkeypatch.setattr(threads, "_quota", lambda: 2.0)
    after_ten_seconds(machine, 0.0, 0.0)
    assert chosen.choose() == 2
    torch.set_num_threads(3)
    fixed = threads.Threads(fixed=True)
    after_ten_seconds(machine, 4.0, 0.0)
    assert fixed.choose() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.Threads().choose() == 3


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "200000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(given, spins):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment |= {"PYTHONPATH": str(ROOT), **given}
    program = "import os, recbole_edt; print(os.environ.get('GOMP_SPINCOUNT'))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == spins
