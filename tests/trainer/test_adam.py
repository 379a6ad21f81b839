"""Adam's shortcuts: one pass per parameter, and only the rows of a table that a batch touches."""

from __future__ import annotations

import pytest
import torch

from recbole_edt.trainer.adam import fused, update_touched_rows

BATCHES = [[0, 1, 1], [2, 3], [1, 5], [0, 2]]


def lazy_adam(parameters, lr: float) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(parameters, lr=lr)
    optimizer.register_step_pre_hook(update_touched_rows)
    return optimizer


def trained(make, batches, sparse=True) -> torch.nn.Embedding:
    """Train a table to give the sum of what it is asked for, some steps."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(6, 3, sparse=sparse)
    optimizer = make(table.parameters(), lr=0.1)
    for batch in batches:
        optimizer.zero_grad()
        table(torch.tensor(batch)).square().sum().backward()
        optimizer.step()
    return table


def test_touched_rows_take_the_steps_of_torchs_sparse_adam():
    ours, theirs = (trained(make, BATCHES).weight for make in (lazy_adam, torch.optim.SparseAdam))
    assert torch.allclose(ours, theirs, atol=1e-6)
    moved = (ours != trained(lazy_adam, []).weight).any(1)
    assert moved.tolist() == [True, True, True, True, False, True]


def test_complex_parameters_are_trained_as_torch_trains_them():
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = fused(torch.optim.Adam([weight], lr=0.1))
    (weight - 2j).abs().square().sum().backward()
    optimizer.step()
    assert torch.allclose(weight.detach(), torch.full_like(weight, 0.9 + 0.1j))


def lazy(run, **changes):
    now = run("LLMEDTPretrain", item_embedding="both", epochs=1, **changes)
    now.trainer.model.item_embedding.table.sparse = True
    now.trainer.optimizer = now.trainer._build_optimizer()
    return now


def test_averages_are_updated_once_per_step(run):
    now = lazy(run, weight_average=0.9).fit()
    assert now.trainer.average.steps == len(now.train)


def test_a_lazy_run_resumes_its_moments(run):
    first, again = lazy(run).fit(), lazy(run)
    again.trainer.resume_checkpoint(first.trainer.last_file)
    mine, theirs = (now.trainer.optimizer.state_dict()["state"] for now in (again, first))
    for name, state in theirs.items():
        assert torch.equal(mine[name]["exp_avg"], state["exp_avg"])


@pytest.mark.parametrize("changes", [{"learner": "sgd"}, {"weight_decay": 0.1}])
def test_what_lazy_updates_would_leave_out_makes_a_table_dense(run, changes):
    trainer = run("LLMEDTPretrain", item_embedding="both", **changes).trainer
    table = trainer.model.item_embedding.table
    table.sparse = True
    trainer._follow_optimizers()
    assert not table.sparse
