"""Ctrl-C and SIGTERM in any phase: one line, the usual exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from forked import PHASES, ROOT, after
from running import arguments_of

from recbole_edt.signals import ending_cleanly

SMALL = arguments_of(
    model="LLMEDT", finetune_epochs=1, train_batch_size=32, threads=1, result_file="r.json"
)
SIGNALS = {
    signal.SIGINT: (130, "interrupted: the same command goes on (run: with --resume)\n"),
    signal.SIGTERM: (143, "terminated: the same command goes on (run: with --resume)\n"),
}


def figures(folder: Path) -> dict:
    return json.loads((folder / "r.json").read_text())["protocols"]


def test_in_every_phase_one_line_and_no_file_is_left_half_written(commands, data_path, tmp_path):
    chance = random.Random(3)
    run = [*SMALL, f"--data_path={data_path}"]
    assert commands.run(tmp_path, run).code == 0
    expected, ended = figures(tmp_path), Counter()
    for place, phase in enumerate(PHASES[1:]):
        number = list(SIGNALS)[place % 2]
        folder = tmp_path / str(place)
        folder.mkdir()
        running = commands.begin(folder, run)
        running.until(lambda: running.entered(phase) > 0)  # noqa: B023 - waited for immediately
        running.until(after(chance.random() * 0.01))
        running.signal(number)
        done = running.wait()
        if done.code == 0:  # it was too late
            continue
        assert (done.code, done.err) == SIGNALS[number], phase
        assert done.out == "" or phase in PHASES[-2:]
        assert not list(folder.rglob("*.tmp"))
        ended[number] += 1
        if place % 3 == 0:
            assert commands.run(folder, [*run, "--resume"]).code == 0
            assert figures(folder) == expected
    assert min(ended[number] for number in SIGNALS) >= 3


@pytest.mark.parametrize(
    ("number", "program"),
    [
        (signal.SIGINT, [str(ROOT / "run_recbole_edt.py")]),
        (signal.SIGTERM, ["-m", "recbole_edt", "run"]),
    ],
)
def test_while_the_imports_last(number, program):
    """A process from its very start: it takes seconds to import torch, in which nothing is lost."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *program, *SMALL],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = []
    while True:  # until the import of torch is well under way
        said.append(process.stderr.readline())
        assert said[-1], "it ended before it could be stopped"
        if "torch." in said[-1]:
            break
    process.send_signal(number)
    out, rest = process.communicate(timeout=60)
    told = [line for line in rest.splitlines(True) if not line.startswith("import time:")]
    assert (process.returncode, "".join(told)) == SIGNALS[number]
    assert out == ""
    assert not list(Path().iterdir())


def test_a_program_that_imports_the_package_keeps_its_own_ways(python):
    program = "import signal as s, recbole_edt; print(s.getsignal(s.SIGTERM) is s.SIG_DFL)"
    assert python("-c", program).stdout == "True\n"


def test_a_signal_that_the_caller_ignores_stays_ignored():
    """As ``nohup`` and shells do with background processes."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending_cleanly():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
