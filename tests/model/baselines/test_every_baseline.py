"""What holds for every baseline: runs, resuming, leaks, settings, gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import ALL, BASELINES, USERS, Run, make, settings_of
from slow_reference import evaluation_batch, training_batch

from recbole_edt import run_recbole_edt
from recbole_edt.errors import ConfigError
from recbole_edt.settings import validate
from recbole_edt.trainer import checkpoint

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
            run = Run(name, data_path, **place)
            start = run.result()[1]
            run.trainer.load_best(getattr(run.trainer, "final_file", None))
            scores, state = run.result()
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
    for phase, mine in zip(("valid", "test"), done.scores, strict=True):
        for metric, value in done.results[phase]["overall"].items():
            assert metric == "n" or mine[metric] == value
    unmoved = {key for key, value in done.state.items() if torch.equal(value, done.start[key])}
    constants = ("_spread", ".change.centre", ".change.map")  # of the text, kept for grown data
    assert not {key for key in unmoved if not key.endswith(constants)}


@EVERY_BASELINE
def test_the_papers_set_trains_all_its_stages(name, data_path, tmp_path) -> None:
    one_epoch = {"TriCDR": {"finetune_epochs": 1}, "LLMCDSR": {"pretrain_epochs": 1}}
    changes = {"epochs": 1, "preset": "paper", **one_epoch.get(name, {})}
    run = Run(name, data_path, **changes).fit()
    assert len(run.trainer.stages) == (2 if name in OF_TWO_STAGES else 1)
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())


@EVERY_BASELINE
def test_nothing_held_out_reaches_training(name, trained, write_shop, tmp_path) -> None:
    run = Run(name, write_shop(tmp_path / "other", held_out="bike0"))
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


class Killed(BaseException):
    """What no handler of the training may swallow."""


@pytest.mark.parametrize(
    ("name", "saves"),
    [("C2DSR", 2), ("SyNCRec", 2), ("TriCDR", 2), ("TriCDR", 5), ("LLMCDSR", 2), ("LLMCDSR", 5)],
)
def test_killed_and_resumed_it_ends_as_if_unbroken(
    name, saves, trained, data_path, tmp_path, monkeypatch
) -> None:
    write, left = checkpoint.save, iter(range(saves))

    def save(path, content):
        if next(left, None) is None:
            raise Killed
        write(path, content)

    place = {"checkpoint_dir": str(tmp_path / "broken")}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save)
        killed = Run(name, data_path, **place)
        with pytest.raises(Killed):
            killed.fit()
    assert killed.trainer.stage == (1 if saves == 2 else 2)
    again = Run(name, data_path, **place, resume=True).fit()
    again.trainer.load_best()
    scores, state = again.result()
    assert scores == trained(name).scores
    for key, value in trained(name).state.items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("C2DSR", "prediction_share", 0.0),
        ("C2DSR", "graph_edges", "none"),
        ("TriCDR", "coarse_weight", -1.0),
        ("SyNCRec", "n_cross_experts", 0),
        ("LLMESR", "fusion", "sum"),
        ("LLMCDSR", "meta_interval", 0),
        ("LLM4CDSR", "first_items", 1),
        ("LLM4CDSR", "align_temperature", 0.0),
    ],
)
def test_impossible_values_are_refused_in_one_line(name, key, value) -> None:
    with pytest.raises(ConfigError, match=f"^{key} must be") as caught:
        validate(BASELINES[name].settings, {key: value})
    assert "\n" not in str(caught.value)


WITH_ALL_TERMS = [
    ("C2DSR", {"output_vectors": "own"}),
    ("C2DSR", {"output_vectors": "graphs", "graph_edges": "all"}),
    ("SyNCRec", {}),
    *(("LLMESR", {"backbone": backbone}) for backbone in ALL),
    ("LLMESR", {"fusion": "paper"}),
    *(("LLM4CDSR", {"backbone": backbone, "align_weight": 0.3}) for backbone in ALL),
]


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize(("name", "options"), WITH_ALL_TERMS)
def test_gradients_reach_every_parameter(name, options, loss) -> None:
    model = make(BASELINES[name], loss=loss, dropout=0.0, **options).train()
    model.calculate_loss(training_batch()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key


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
def test_scores_depend_on_neither_padding_nor_batch_composition(name) -> None:
    model = make(BASELINES[name])
    with torch.no_grad():
        whole = model.full_sort_predict(evaluation_batch())
        assert torch.allclose(whole, model.full_sort_predict(evaluation_batch(extra=1)), atol=1e-10)
        for row, user in enumerate(USERS):
            alone = model.full_sort_predict(evaluation_batch([user]))
            assert torch.allclose(alone[0], whole[row], atol=1e-10)


@EVERY_BASELINE
def test_runs_in_lower_precision(name) -> None:
    model = make(BASELINES[name], loss="softmax").float().train()
    batch = with_nothing_inserted(training_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
