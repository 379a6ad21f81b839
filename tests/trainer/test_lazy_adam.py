"""Adam that moves only the rows of a table that a batch has touched."""

import pytest
import torch

from recbole_edt.errors import ConfigError
from recbole_edt.trainer.lazy_adam import LazyAdam


def trained(optimizer_class, batches, sparse=True) -> torch.nn.Embedding:
    """Train a table to give the sum of what it is asked for, some steps."""
    torch.manual_seed(0)
    table = torch.nn.Embedding(6, 3, sparse=sparse)
    optimizer = optimizer_class(table.parameters(), lr=0.1)
    for batch in batches:
        optimizer.zero_grad()
        table(torch.tensor(batch)).square().sum().backward()
        optimizer.step()
    return table


BATCHES = [[0, 1, 1], [2, 3], [1, 5], [0, 2]]


def test_it_takes_the_steps_of_torchs_sparse_adam():
    ours, theirs = (trained(c, BATCHES).weight for c in (LazyAdam, torch.optim.SparseAdam))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_where_every_row_is_touched_it_is_adam():
    every = [list(range(6))] * 4
    ours, adam = trained(LazyAdam, every), trained(torch.optim.Adam, every, sparse=False)
    assert torch.allclose(ours.weight, adam.weight, atol=1e-6)


def test_rows_that_no_batch_asks_for_stay_where_they_are():
    table, start = trained(LazyAdam, BATCHES), trained(LazyAdam, [])
    moved = (table.weight != start.weight).any(1)
    assert moved.tolist() == [True, True, True, True, False, True]


def test_a_lazy_run_learns_and_resumes_its_moments(run, same_result):
    lazy = run("LLMEDTPretrain", id_updates="lazy", item_embedding="both").fit()
    dense = run("LLMEDTPretrain", item_embedding="both").fit()
    assert isinstance(lazy.trainer.optimizer, LazyAdam)
    assert not isinstance(dense.trainer.optimizer, LazyAdam)
    table = "item_embedding.table.weight"
    assert not torch.equal(lazy.result()[1][table], dense.result()[1][table])
    again = run("LLMEDTPretrain", id_updates="lazy", item_embedding="both", resume=True)
    again.trainer.resume_checkpoint(lazy.trainer.last_file)
    mine, theirs = (t.trainer.optimizer.state_dict()["state"] for t in (again, lazy))
    for name, state in theirs.items():
        assert torch.equal(mine[name]["exp_avg"], state["exp_avg"])


def test_what_lazy_updates_would_leave_out_is_refused(run):
    for changes in ({"learner": "sgd"}, {"weight_decay": 0.1}):
        with pytest.raises(ConfigError, match="id_updates lazy goes with learner adam"):
            run("LLMEDTPretrain", id_updates="lazy", item_embedding="both", **changes)
