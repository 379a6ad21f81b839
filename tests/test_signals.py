"""Ctrl-C and SIGTERM in any phase: one line, the usual exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forked import PHASES, ROOT, after

SMALL = [
    "--dataset=tiny", "--hidden_size=16", "--eval_args.mode=uni5", "--topk=3", "--use_gpu=False",
    "--valid_metric=NDCG@3", "--train_batch_size=32", "--threads=1", "--result_file=r.json",
    "--state=ERROR", "--model=LLMEDT", "--epochs=2", "--finetune_epochs=2",
]  # fmt: skip
SIGNALS = {
    signal.SIGINT: (130, "interrupted: the same command goes on (run: with --resume)\n"),
    signal.SIGTERM: (143, "terminated: the same command goes on (run: with --resume)\n"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_shop, write_dataset) -> Path:
    shop = make_shop(seed=3, n_users=40, n_items=(12, 14), lengths=(4, 8))
    vectors = np.random.default_rng(0).normal(size=(26, 6))
    return write_dataset(tmp_path_factory.mktemp("data"), shop, item_emb=vectors)


def figures(folder: Path) -> dict:
    return json.loads((folder / "r.json").read_text())["protocols"]


@pytest.fixture(scope="module")
def expected(commands, data, tmp_path_factory) -> dict:
    """Figures of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("calm")
    assert commands.run(folder, [*SMALL, f"--data_path={data}"]).code == 0
    return figures(folder)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_in_every_phase_one_line_and_no_file_is_left_half_written(
    commands, data, expected, tmp_path, number
):
    chance = random.Random(3)
    run = [*SMALL, f"--data_path={data}"]
    ended = 0
    for place, phase in enumerate(PHASES[1:]):
        folder = tmp_path / str(place)
        folder.mkdir()
        running = commands.begin(folder, run)
        running.until(lambda: running.entered(phase) > 0)  # noqa: B023 - waited for at once
        running.until(after(chance.random() * 0.01))
        running.signal(number)
        done = running.wait()
        if done.code == 0:  # it was too late
            continue
        assert (done.code, done.err) == SIGNALS[number], phase
        assert done.out == "" or phase in PHASES[-2:]
        assert not list(folder.rglob("*.tmp"))
        ended += 1
        if place % 3 == 0:
            assert commands.run(folder, [*run, "--resume"]).code == 0
            assert figures(folder) == expected
    assert ended >= 6


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_augment_ends_like_that_too_and_the_same_command_goes_on(commands, data, tmp_path, number):
    run = ["augment", "--dataset=tiny", f"--data_path={data}", "--output_path=out",
           "--encoder=file", "--clusters=3"]  # fmt: skip
    start = time.monotonic()
    assert commands.run(tmp_path, [*run[:-3], "--output_path=whole", *run[-2:]]).code == 0
    whole_s, ended = time.monotonic() - start, 0
    for share in (0.3, 0.6, 0.8, 0.9, 0.95):
        running = commands.begin(tmp_path, run)
        running.until(after(share * whole_s))
        running.signal(number)
        done = running.wait()
        assert (done.code, done.err) == SIGNALS[number] or done.code == 0
        ended += done.code != 0
        assert not list(tmp_path.rglob("*.tmp"))
        assert not list(tmp_path.rglob("writing-*"))
    assert ended
    assert commands.run(tmp_path, run).code == 0
    one, other = (tmp_path / folder / "tiny" for folder in ("whole", "out"))
    for file in one.iterdir():
        assert (other / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("number", "program"),
    [
        (signal.SIGINT, [str(ROOT / "run_recbole_edt.py")]),
        (signal.SIGTERM, ["-m", "recbole_edt", "run"]),
    ],
)
def test_while_the_imports_last(number, program, data):
    """A process from its very start: it takes seconds to import torch, in which nothing is lost."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *program, *SMALL, f"--data_path={data}"],
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


def test_a_program_that_imports_the_package_keeps_its_own_ways():
    program = "import signal as s, recbole_edt; print(s.getsignal(s.SIGTERM) is s.SIG_DFL)"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "True\n"


def test_a_signal_that_the_caller_ignores_stays_ignored(commands, data):
    """As ``nohup`` and shells do with what runs in the background."""
    from recbole_edt.signals import ending_cleanly

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending_cleanly():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
