"""Runs that are killed at random moments end like one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = int(os.environ.get("RECBOLE_EDT_KILLS", "5"))
REQUESTS = 40 * KILLS
CONCURRENCY = 16


@pytest.fixture
def runs(tmp_path):
    """Start the process of a server's runs: its stdin, its stdout, the folder it works in."""
    started = []

    def start(server, name):
        folder = tmp_path / name
        folder.mkdir()
        script = str(Path(__file__).with_name("llm_runs.py"))
        command = [sys.executable, script, server.url, str(folder), str(REQUESTS)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process, folder

    yield start
    for process in started:
        process.kill()
        process.communicate()


def begin(process):
    print("go", file=process.stdin, flush=True)
    return int(process.stdout.readline())


def misbehaving(llm_servers):
    server = llm_servers(latency_s=0.01, slow_s=0.7)
    server.misbehave(0.2, seed=7)
    return server


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
def test_killed_runs_end_in_the_same_bytes(llm_servers, runs):
    calm, struck = misbehaving(llm_servers), misbehaving(llm_servers)
    (undisturbed, calm_folder), (killed, folder) = runs(calm, "calm"), runs(struck, "struck")
    for process in (undisturbed, killed):
        assert process.stdout.readline() == "ready\n"
    begin(undisturbed)
    assert undisturbed.stdout.readline() == "0\n"

    chance, calls = random.Random(11), REQUESTS // KILLS // 2
    for _ in range(KILLS):
        seen, deadline = len(struck.log) + chance.randrange(calls), time.monotonic() + 20
        child = begin(killed)
        while len(struck.log) < seen and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        assert killed.stdout.readline() == f"{-signal.SIGKILL}\n"
    assert not (folder / "answers.json").exists()
    begin(killed)
    assert killed.stdout.readline() == "0\n"

    expected = (calm_folder / "answers.json").read_bytes()
    assert (folder / "answers.json").read_bytes() == expected
    paid_twice = sum(n - 1 for n in struck.tally()["questions"].values())
    assert paid_twice <= KILLS * CONCURRENCY  # what was under way when it was killed
    calls_made = struck.arrived
    begin(killed)
    assert killed.stdout.readline() == "0\n"
    assert struck.arrived == calls_made
    assert (folder / "answers.json").read_bytes() == expected
