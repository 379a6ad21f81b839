"""Several processes on CPUs over loopback: the same results as one, and no hanging."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
LIMIT = 240
"""Seconds that no run comes near, unless it hangs."""

NO_CHANCE = {"dropout": 0.0, "item_dropout": 0.0, "learner": "sgd", "learning_rate": 0.1}
"""No dropout; and Adam would make steps of their own out of gradients that are nothing but noise"""


def command(n: int, model: str, settings: dict) -> list[str]:
    """Command line of a run in ``n`` processes, or in one without torchrun."""
    start = [sys.executable]
    if n > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={n}"]
        start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    options = [f"--{key}={value}" for key, value in settings.items()]
    script = str(ROOT / "run_recbole_edt.py")
    return [*start, script, f"--model={model}", "--dataset=tiny", *options]


@pytest.fixture
def start(small) -> Callable[..., subprocess.Popen]:
    """Start a run: ``start(2, "LLMEDT", folder, dropout=0.0)``; its files go into ``folder``."""

    def begin(n: int, model: str, folder: Path, **changes) -> subprocess.Popen:
        folder.mkdir(exist_ok=True)
        settings = small(model, **{"result_file": folder / "out.json", **changes})
        return subprocess.Popen(
            command(n, model, settings), cwd=folder, env=ENVIRONMENT, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    return begin


@pytest.fixture
def finish(start) -> Callable[..., None]:
    """Start a run, and see that it ends well."""

    def whole(*arguments, **changes) -> None:
        process = start(*arguments, **changes)
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, errors[-2000:]

    return whole


def figures(folder: Path) -> dict:
    """Figures that a run has reported."""
    return json.loads((folder / "out.json").read_text())["protocols"]


def parameters(folder: Path, part: str = "") -> dict[str, torch.Tensor]:
    """Parameters of a run's best epoch (or ``part="last"``)."""
    dots = 1 + bool(part)
    names = [path for path in (folder / "saved").iterdir() if path.name.count(".") == dots]
    (path,) = [path for path in names if part in path.name]
    return torch.load(path)["state_dict"]


def with_adapters_folded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters with each domain adapter as the one matrix and offset that it is."""
    state = dict(state)
    for domain in (0, 1):
        inner, inner_bias, outer, outer_bias = (
            state.pop(f"domain_adapters.{domain}.{layer}.{part}")
            for layer in ("inner", "outer")
            for part in ("weight", "bias")
        )
        state[f"matrix_{domain}"] = outer @ inner
        state[f"offset_{domain}"] = outer @ inner_bias + outer_bias
    return state


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("LLMEDT", {"train_batch_size": 7}),
        # hard negatives are drawn by each process for itself, as dropout is
        (
            "LLMEDT",
            {
                "train_batch_size": 7,
                "preset": "paper",
                "align_weight": 0.5,
                "loss": "softmax",
                "item_embedding": "both",  # text of six columns alone has fewer axes than adapters
            },
        ),
        # 20 windows: the last batch holds one, and one of the processes nothing
        ("LLMEDTPretrain", {"train_batch_size": 19, "backbone": "gru4rec"}),
    ],
    ids=["default", "paper", "uneven"],
)
def test_two_processes_learn_what_one_learns(finish, tmp_path, model, changes):
    for n in (1, 2):
        finish(n, model, tmp_path / str(n), **NO_CHANCE, **changes)
    one, two = (parameters(tmp_path / str(n), "last") for n in (1, 2))
    if changes.get("preset") == "paper":  # rounding turns axes along which items vary alike
        one, two = with_adapters_folded(one), with_adapters_folded(two)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-6), name
    assert figures(tmp_path / "1") == figures(tmp_path / "2")


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in listed.split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_a_process_that_dies_ends_the_run_which_then_resumes_to_the_same_end(
    start, finish, tmp_path
):
    many = {"epochs": 40, "finetune_epochs": 20, "stopping_step": 100}
    finish(2, "LLMEDT", tmp_path / "whole", **many)  # dropout is on: it repeats itself all the same
    cut = start(2, "LLMEDT", tmp_path / "cut", **many)
    begun = time.monotonic()
    while not list((tmp_path / "cut").glob("saved/*.last.pth")):
        assert cut.poll() is None and time.monotonic() - begun < LIMIT
        time.sleep(0.01)
    os.kill(children(cut.pid)[-1], signal.SIGKILL)
    _, errors = cut.communicate(timeout=LIMIT)
    assert cut.returncode != 0, errors
    assert not (tmp_path / "cut" / "out.json").exists()
    finish(2, "LLMEDT", tmp_path / "cut", **many, resume=True)
    whole, resumed = (parameters(tmp_path / name) for name in ("whole", "cut"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")


def test_models_whose_losses_need_a_whole_batch_are_refused(start, tmp_path):
    process = start(2, "C2DSR", tmp_path / "run")
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert "error: C2DSR trains in one process" in errors
    assert "recbole_edt/" not in errors  # torchrun shows its own calls, none of ours
    assert not (tmp_path / "run" / "out.json").exists()


def test_recboles_own_models_are_ranked_as_in_one_process(finish, run, tmp_path):
    finish(2, "SASRec", tmp_path / "two", train_batch_size=32)
    (path,) = [p for p in (tmp_path / "two" / "saved").iterdir() if p.name.count(".") == 1]
    alone = run("SASRec")
    alone.trainer.load_best(path)
    for loader in (alone.valid, alone.test):
        alone.trainer.evaluate(loader, load_best_model=False)
        report = figures(tmp_path / "two")["uni5"][loader.phase]
        assert report["overall"] == pytest.approx(alone.trainer.reports[loader.phase]["overall"])


def test_recboles_own_way_of_starting_processes_works_too(small, tmp_path):
    script = (
        "import sys, json, recbole_edt\n"
        "from recbole.quick_start import run\n"
        "if __name__ == '__main__':\n"
        "    settings = json.loads(sys.argv.pop())\n"
        "    port = settings.pop('port')\n"
        "    out = run('LLMEDT', 'tiny', config_dict=settings, nproc=2, port=port)\n"
        "    print(json.dumps(out['test_result']))\n"
    )
    (tmp_path / "script.py").write_text(script)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    settings = {**small("LLMEDT"), "eval_args": {"mode": "uni5"}, "port": port}
    del settings["eval_args.mode"]
    done = subprocess.run(
        [sys.executable, "script.py", json.dumps(settings)],
        cwd=tmp_path, env=ENVIRONMENT, text=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < json.loads(done.stdout.splitlines()[-1])["mrr"] <= 1
