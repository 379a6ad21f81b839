"""Adam that moves only the rows of a table that a batch has touched."""

import pytest
import torch

from recbole_edt.model import item_embedding
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


def test_a_run_with_a_large_table_learns_and_resumes_its_moments(run, monkeypatch):
    table = "item_embedding.table.weight"
    dense = run("LLMEDTPretrain").fit()
    moved_whole = dense.result()[1][table]
    monkeypatch.setattr(item_embedding, "_LARGE_TABLE", 0)
    lazy = run("LLMEDTPretrain").fit()
    assert isinstance(lazy.trainer.optimizer, LazyAdam)
    assert not isinstance(dense.trainer.optimizer, LazyAdam)
    assert not torch.equal(lazy.result()[1][table], moved_whole)
    again = run("LLMEDTPretrain", resume=True)
    again.trainer.resume_checkpoint(lazy.trainer.last_file)
    mine, theirs = (t.trainer.optimizer.state_dict()["state"] for t in (again, lazy))
    for name, state in theirs.items():
        assert torch.equal(mine[name]["exp_avg"], state["exp_avg"])


@pytest.mark.parametrize("changes", [{"learner": "sgd"}, {"weight_decay": 0.1}])
def test_what_needs_whole_tables_trains_them_whole(run, monkeypatch, changes):
    monkeypatch.setattr(item_embedding, "_LARGE_TABLE", 0)
    done = run("LLMEDTPretrain", epochs=1, **changes).fit()
    assert not isinstance(done.trainer.optimizer, LazyAdam)
    assert not done.trainer.model.item_embedding.table.sparse
