"""Several processes under torchrun, on CPUs over loopback: the same results as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
NO_CHANCE = {"dropout": 0.0, "item_dropout": 0.0}


def command(n: int, model: str, settings: dict) -> list[str]:
    """Command line of a run in ``n`` processes, or in one without torchrun."""
    start = [sys.executable]
    if n > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={n}", "--master_port=0"]
        start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    options = [f"--{key}={value}" for key, value in settings.items()]
    script = str(ROOT / "run_recbole_edt.py")
    return [*start, script, f"--model={model}", "--dataset=tiny", *options]


@pytest.fixture
def launch(small) -> Callable[..., subprocess.CompletedProcess]:
    """Run a model: ``launch(2, "LLMEDT", folder, dropout=0.0)``; files go below ``folder``."""

    def run(n: int, model: str, folder: Path, **changes) -> subprocess.CompletedProcess:
        folder.mkdir(exist_ok=True)
        settings = small(model, **{"result_file": folder / "out.json", **changes})
        return subprocess.run(
            command(n, model, settings), cwd=folder, env=ENVIRONMENT, text=True,
            capture_output=True, timeout=240,
        )  # fmt: skip

    return run


def figures(folder: Path) -> dict:
    """Figures that a run has reported."""
    results = json.loads((folder / "out.json").read_text())
    return {name: results[name] for name in ("test", "valid", "protocols")}


def parameters(folder: Path, last: bool = False) -> dict[str, torch.Tensor]:
    """Parameters of a run's best epoch, or of its last."""
    files = [p for p in (folder / "saved").glob("*.pth") if "stage1" not in p.name]
    path, = [p for p in files if p.name.endswith(".last.pth") == last]
    return torch.load(path)["state_dict"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "bpr", "preset": "paper", "align_weight": 0.5, "dropout": 0.0},
        # 20 windows in batches of 7: the last holds 6; in batches of 19 it holds one
        {"backbone": "gru4rec", "train_batch_size": 19},
    ],
    ids=["softmax", "paper", "gru"],
)
def test_two_processes_learn_what_one_learns(launch, tmp_path, changes):
    for n in (1, 2):
        done = launch(n, "LLMEDT", tmp_path / str(n), **{**NO_CHANCE, **changes})
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (parameters(tmp_path / str(n), last=True) for n in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-3, atol=1e-5), name
    assert figures(tmp_path / "1") == figures(tmp_path / "2")


def test_with_dropout_two_processes_repeat_themselves_and_resume(launch, tmp_path):
    whole = launch(2, "LLMEDT", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    # stopped in stage 1, then told to go on
    cut = launch(2, "LLMEDT", tmp_path / "cut", time_limit=0.0001)
    assert cut.returncode == 0, cut.stderr[-2000:]
