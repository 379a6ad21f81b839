"""What holds for every baseline: runs, resuming, leaks, settings, gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import BASELINES, make, settings_of
from running import Run
from slow_reference import training_batch

from recbole_edt import run_recbole_edt

EVERY_BASELINE = pytest.mark.parametrize("name", list(BASELINES))
OF_TWO_STAGES = ("TriCDR", "LLMCDSR")


@pytest.fixture(scope="module")
def data_path(write_shop, tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data_path, tmp_path_factory):
    """Train a baseline once: its results, and its best epoch in a new model."""
    known = {}

    def train(name):
        if name not in known:
            place = {"checkpoint_dir": str(tmp_path_factory.mktemp(name))}
            results = run_recbole_edt(name, "tiny", None, settings_of(name, data_path, **place))
            run = Run(name, settings_of(name, data_path, **place))
            start = run.state()
            scores, state = run.result(getattr(run.trainer, "final_file", None))
            known[name] = SimpleNamespace(
                results=results, run=run, start=start, scores=scores, state=state
            )
        return known[name]

    return train


@EVERY_BASELINE
def test_a_run_trains_and_its_checkpoint_scores_the_same(name, trained) -> None:
    done = trained(name)
    n_stages = 2 if name in OF_TWO_STAGES else 1
    assert [part["epochs"] for part in done.results["stages"].values()] == [2] * n_stages
    for phase in ("valid", "test"):
        for metric, value in done.results[phase]["overall"].items():
            assert metric == "n" or done.scores[phase][metric] == value
    unmoved = {key for key, value in done.state.items() if torch.equal(value, done.start[key])}
    constants = ("_spread", ".change.centre", ".change.map")  # of the text, kept for grown data
    assert not {key for key in unmoved if not key.endswith(constants)}


@EVERY_BASELINE
def test_the_papers_set_trains_all_its_stages(name, data_path) -> None:
    run = Run(name, settings_of(name, data_path, epochs=1, preset="paper")).fit()
    assert len(run.trainer.stages) == (2 if name in OF_TWO_STAGES else 1)
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())


@EVERY_BASELINE
def test_nothing_held_out_reaches_training(name, trained, write_shop, tmp_path) -> None:
    run = Run(name, settings_of(name, write_shop(tmp_path / "other", held_out="bike0")))
    targets = [d.sequences.items[d.split.test_rows] for d in (trained(name).run.data, run.data)]
    assert not np.array_equal(*targets)
    for key, value in trained(name).start.items():
        assert torch.equal(value, run.model.state_dict()[key]), key
    built = dict(run.model.named_buffers())
    for key, value in trained(name).run.model.named_buffers():
        assert key in trained(name).start or torch.equal(value, built[key]), key
    run.model.eval()
    for batches in zip(trained(name).run.train, run.train, strict=True):
        losses = []
        for batch in batches:
            torch.manual_seed(1)
            losses.append(run.model.calculate_loss(batch).item())
        assert losses[0] == losses[1]


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@EVERY_BASELINE
def test_users_of_one_domain_and_without_own_history_leave_no_nan_behind(name, loss) -> None:
    """Of users 1 and 2, no target has a history of its domain."""
    for users, sequences in (((2,), None), ((1, 2), {1: [1, 6], 2: [8, 2]})):
        model = make(BASELINES[name], loss=loss).train()
        batch = with_nothing_inserted(training_batch(users, sequences=sequences))
        value = model.calculate_loss(batch)
        if value.requires_grad:
            value.backward()
        assert torch.isfinite(value)
        for key, parameter in model.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), key


def with_nothing_inserted(batch) -> dict:
    fields = ("", "_0", "_1")
    return batch | {f"augmented{f}": torch.zeros_like(batch[f"sequence{f}"]).bool() for f in fields}


@EVERY_BASELINE
def test_runs_in_lower_precision(name) -> None:
    model = make(BASELINES[name], loss="softmax").float().train()
    batch = with_nothing_inserted(training_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
