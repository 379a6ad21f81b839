"""Runs that are killed at random moments end like one that was not, bit for bit.

``RECBOLE_EDT_KILLS=50 pytest tests/trainer/test_kill.py`` makes more of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from forked import PHASES, after
from running import arguments_of

KILLS = int(os.environ.get("RECBOLE_EDT_KILLS", "4"))
OWN = {
    "LLMEDT": {"epochs": 3, "finetune_epochs": 2, "ensemble_size": 2},
    "LLMCDSR": {"epochs": 2, "pretrain_epochs": 2, "inner_size": 16, "augmentation": True},
    "SASRec": {"epochs": 3, "inner_size": 16},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_shop, augmented_shop, write_embedded) -> Path:
    shop = augmented_shop(make_shop(seed=3, n_users=60, n_items=(12, 14), lengths=(4, 8)))
    return write_embedded(tmp_path_factory.mktemp("data"), shop, profiles=True)


def without_times(results: dict) -> dict:
    """What a results file says of a run, without how long it took."""
    out = {**results, "timing": results["timing"]["epochs"], "stages": {}}
    for stage, part in results["stages"].items():
        out["stages"][stage] = {k: v for k, v in part.items() if not k.endswith("_s")}
    return out


def final(folder: Path) -> tuple[dict, dict]:
    """Figures and parameters that a run has ended with, the checkpoints of all stages."""
    parameters = {}
    for file in sorted((folder / "saved").glob("*.pth")):
        if ".last." not in file.name:
            state = torch.load(file, weights_only=True)["state_dict"]
            parameters |= {f"{file.name}: {name}": value for name, value in state.items()}
    return without_times(json.loads((folder / "r.json").read_text())), parameters


def assert_same(found, expected) -> None:
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert [n for n, v in found[1].items() if not torch.equal(v, expected[1][n])] == []


def finish(commands, folder: Path, run: list[str]):
    """Resume a run to its end; gives what it ended with."""
    done = commands.run(folder, run)
    assert done.code == 0, done.err
    assert not list(folder.rglob("*.tmp"))
    return final(folder)


def kill(commands, folder, run, chance, phases) -> str | None:
    """Kill a run at a random moment of some phase; gives the phase hit, None if the run ended."""
    phase = chance.choice(list(phases))
    running = commands.begin(folder, run)
    often = chance.randint(1, min(phases[phase], 3))
    running.until(lambda: running.entered(phase) >= often)
    running.until(after(chance.uniform(0, 0.05)))
    running.signal(signal.SIGKILL)
    landed = running.phase
    return landed if running.wait().code == -signal.SIGKILL else None


@pytest.mark.parametrize("model", list(OWN))
def test_a_killed_run_resumes_to_the_same_figures_and_parameters(commands, data, tmp_path, model):
    """A killed run is resumed to its end in a copy, and itself killed again until it has ended."""
    run = arguments_of(
        model=model, data_path=data, train_batch_size=32, learning_rate=0.01, threads=1,
        result_file="r.json", resume=True, **OWN[model],
    )  # fmt: skip
    (tmp_path / "unbroken").mkdir()
    unbroken = commands.begin(tmp_path / "unbroken", run)
    assert unbroken.wait().code == 0
    phases = {phase: n for phase in PHASES if (n := unbroken.entered(phase))}
    expected = final(tmp_path / "unbroken")
    chance, landed = random.Random(5), []
    kills = KILLS if model == "LLMEDT" else -(-KILLS // 3)
    while len(landed) < kills:
        folder = tmp_path / f"struck{len(landed)}"
        folder.mkdir(exist_ok=True)
        while len(landed) < kills and (hit := kill(commands, folder, run, chance, phases)):
            landed.append(hit)
            copy = shutil.copytree(folder, tmp_path / "copy")
            assert_same(finish(commands, copy, run), expected)
            shutil.rmtree(copy)
        assert_same(finish(commands, folder, run), expected)
        shutil.rmtree(folder)
    assert len({*landed}) >= min(kills, len(phases)) / 2  # not all of them in one place
