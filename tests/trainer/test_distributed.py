"""Several processes on CPUs over loopback: the same results as one, and no hanging."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import ROOT

ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
LIMIT = 240  # seconds that no run comes near, unless it hangs

# No dropout, which differs between processes; and Adam would turn rounding noise into whole steps.
NO_CHANCE = {"dropout": 0.0, "item_dropout": 0.0, "learner": "sgd", "learning_rate": 0.1}


@pytest.fixture
def words(small) -> Callable[..., list[str]]:
    """Arguments of a run of a model, whose files go into its working folder."""

    def make(model: str, **changes) -> list[str]:
        settings = small(model, **{"result_file": "out.json", **changes})
        return [f"--model={model}", "--dataset=tiny", *(f"--{k}={v}" for k, v in settings.items())]

    return make


@pytest.fixture
def finish(commands, words, tmp_path) -> Callable[..., tuple[dict, dict]]:
    """Run to the end in ``n`` processes; gives figures, and best or last parameters."""

    def whole(n: int, model: str, part="", name="", **changes) -> tuple[dict, dict]:
        folder = tmp_path / (name or str(n))
        folder.mkdir(exist_ok=True)
        done = commands.run(folder, words(model, **changes), processes=n)
        assert done.code == 0, done.err
        (path,) = (
            path
            for path in (folder / "saved").iterdir()
            if path.name.count(".") == 1 + bool(part) and part in path.name
        )
        figures = json.loads((folder / "out.json").read_text())["protocols"]
        return figures, torch.load(path)["state_dict"]

    return whole


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


PAPER = {
    # hard negatives are drawn by each process for itself, as dropout is
    "preset": "paper", "align_weight": 0.5, "loss": "softmax",
    "item_embedding": "both",  # text of six columns alone has fewer axes than adapters
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("LLMEDT", {"train_batch_size": 7}),
        ("LLMEDT", {"train_batch_size": 7, **PAPER}),
        # 20 windows: the last batch holds one, and one of the processes nothing
        ("LLMEDTPretrain", {"train_batch_size": 19, "backbone": "gru4rec"}),
        ("LLMEDT", {"train_batch_size": 7, "ensemble_size": 2}),
    ],
    ids=["default", "paper", "uneven", "ensemble"],
)
def test_two_processes_learn_what_one_learns(finish, model, changes):
    (figures, one), (their_figures, two) = (
        finish(n, model, "last", **NO_CHANCE, **changes) for n in (1, 2)
    )
    assert figures == their_figures
    if "preset" in changes:  # rounding turns axes along which items vary alike
        one, two = with_adapters_folded(one), with_adapters_folded(two)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_a_process_that_dies_ends_the_run_which_then_resumes_to_the_same_end(
    commands, words, finish, tmp_path
):
    many = {"epochs": 8, "finetune_epochs": 4, "stopping_step": 100}
    whole = finish(2, "LLMEDT", name="whole", **many)  # dropout is on, and repeats itself
    cut = tmp_path / "cut"
    cut.mkdir()
    running = commands.begin(cut, words("LLMEDT", **many), processes=2)
    assert running.until(lambda: list(cut.glob("saved/*.last.pth")))
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    done = running.wait()
    assert done.code == 2
    assert done.err.startswith("error: process 0: process 0 of 2 has lost another one"), done.err
    assert done.err.count("\n") == 1
    assert not (cut / "out.json").exists()
    resumed = finish(2, "LLMEDT", name="cut", **many, resume=True)
    assert whole[0] == resumed[0]
    for name, value in whole[1].items():
        assert torch.equal(value, resumed[1][name]), name


def test_models_whose_losses_need_a_whole_batch_are_refused(commands, words, tmp_path):
    done = commands.run(tmp_path, words("C2DSR"), processes=2)
    assert done.code == 2
    lines = sorted(line.split(":")[:3] for line in done.err.splitlines())
    assert lines == [["error", f" process {n}", " C2DSR trains in one process"] for n in (0, 1)]
    assert not (tmp_path / "out.json").exists()


def test_torchrun_starts_the_processes_of_a_run(words, run, tmp_path):
    """Here of a model of RecBole, which is ranked as in one process."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", f"{ROOT}/run_recbole_edt.py"]
    done = subprocess.run(
        [*start, *words("SASRec", train_batch_size=32, epochs=1)],
        cwd=tmp_path, env=ENVIRONMENT, text=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (path for path in Path("saved").iterdir() if path.name.count(".") == 1)
    figures = json.loads(Path("out.json").read_text())["protocols"]["uni5"]
    alone = run("SASRec")
    alone.trainer.load_best(path)
    for loader in (alone.valid, alone.test):
        alone.trainer.evaluate(loader, load_best_model=False)
        report = alone.trainer.reports[loader.phase]
        assert figures[loader.phase]["overall"] == pytest.approx(report["overall"])


def test_recboles_own_way_of_starting_processes_works_too(small):
    Path("script.py").write_text(
        "import sys, json, recbole_edt\n"
        "from recbole.quick_start import run\n"
        "if __name__ == '__main__':\n"
        "    settings = json.loads(sys.argv.pop())\n"
        "    port = settings.pop('port')\n"
        "    out = run('LLMEDT', 'tiny', config_dict=settings, nproc=2, port=port)\n"
        "    print(json.dumps(out['test_result']))\n"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    short = {"epochs": 1, "finetune_epochs": 1, "eval_args": {"mode": "uni5"}, "port": port}
    settings = {**small("LLMEDT"), **short}
    del settings["eval_args.mode"]
    done = subprocess.run(
        [sys.executable, "script.py", json.dumps(settings)],
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < json.loads(done.stdout.splitlines()[-1])["mrr"] <= 1
