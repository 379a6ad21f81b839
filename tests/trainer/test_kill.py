"""Runs that are killed at random moments end like one that was not, bit for bit.

``RECBOLE_EDT_KILLS=50 pytest -s tests/trainer/test_kill.py`` is the whole measurement, 50 kills of
LLMEDT and as many of the other models together; the suite makes a few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from forked import PHASES, after

KILLS = int(os.environ.get("RECBOLE_EDT_KILLS", "4"))
SMALL = [
    "--dataset=tiny", "--hidden_size=16", "--eval_args.mode=uni5", "--topk=3", "--use_gpu=False",
    "--valid_metric=NDCG@3", "--train_batch_size=32", "--learning_rate=0.01", "--threads=1",
    "--checkpoint_dir=saved", "--result_file=r.json", "--resume",
]  # fmt: skip
OWN = {
    "LLMEDT": ["--epochs=3", "--finetune_epochs=2"],
    "LLMCDSR": ["--epochs=2", "--pretrain_epochs=2", "--inner_size=16", "--augmentation=True"],
    "SASRec": ["--epochs=3", "--inner_size=16"],
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


def kill(commands, folder, run, chance, phase, times, seconds) -> str | None:
    """Kill a run at a random moment of a phase; gives the phase that was hit, None if it ended."""
    running = commands.begin(folder, run)
    often = chance.randint(1, min(times, 3))
    running.until(lambda: running.entered(phase) >= often)
    running.until(after(chance.uniform(0, seconds)))
    running.signal(signal.SIGKILL)
    landed = running.phase
    return landed if running.wait().code == -signal.SIGKILL else None


def torment(commands, tmp_path, run, kills, chance, expected) -> Counter:
    """Kill a run again and again, each time resuming a copy to its end; gives where it was hit.

    The killed run itself goes on from kill to kill until it has ended, and then begins anew.
    """
    landed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    chains, phases = 0, expected[2]
    while landed.total() < kills:
        folder = tmp_path / f"struck{chains}"
        folder.mkdir()
        chains += 1
        while not (folder / "r.json").exists() and landed.total() < kills:
            # the phase least struck so far, else one kind would get them all; some are over
            # before they can be struck, and must not take all turns
            pressing = {phase: landed[phase] + tried[phase] for phase in phases}
            least = min(pressing.values())
            wanted = chance.choice([phase for phase in phases if pressing[phase] == least])
            tried[wanted] += 1
            where = kill(commands, folder, run, chance, wanted, *phases[wanted])
            if where is None:
                break
            landed[where] += 1
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            assert_same(finish(commands, copy, run), expected)
            shutil.rmtree(copy)
        assert_same(finish(commands, folder, run), expected)
    return landed


def unbroken(commands, tmp_path, run):
    """What an undisturbed run ends with, how often it was in each phase, and for how long."""
    folder = tmp_path / "unbroken"
    folder.mkdir()
    running = commands.begin(folder, run)
    done = running.wait()
    assert done.code == 0, done.err
    times = {phase: running.entered(phase) for phase in PHASES}
    seen = {phase: (n, running.seconds(phase)) for phase, n in times.items() if n}
    return (*final(folder), seen)


@pytest.mark.parametrize("model", list(OWN))
def test_a_killed_run_resumes_to_the_same_figures_and_parameters(
    commands, data, tmp_path, capsys, model
):
    run = [f"--model={model}", f"--data_path={data}", *SMALL, *OWN[model]]
    expected = unbroken(commands, tmp_path, run)
    kills = KILLS if model == "LLMEDT" else -(-KILLS // 3)
    landed = torment(commands, tmp_path, run, kills, random.Random(5), expected)
    assert len(landed) >= min(kills, len(expected[2])) / 2  # not all of them in one place
    if kills >= 50:
        assert [phase for phase in expected[2] if landed[phase] < 2] == []
    with capsys.disabled():
        if KILLS > 4:
            places = ", ".join(f"{n} {phase}" for phase, n in landed.most_common())
            print(f"\n{model}: {landed.total()} kills resumed to the same ({places})")
