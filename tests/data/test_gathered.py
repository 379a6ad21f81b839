"""Rows whose histories are cut on first use are the rows that would have been cut before."""

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_edt.data.gathered import GatheredRows

ITEM = np.arange(10) * 3


@pytest.fixture
def calls():
    return []


@pytest.fixture
def rows(calls):
    def gather(at):
        calls.append(at.tolist())
        return {"list": np.stack([ITEM[at], ITEM[at] + 1], axis=1)}

    return GatheredRows({"item": ITEM}, gather)


@pytest.fixture
def plain():
    lists = torch.from_numpy(np.stack([ITEM, ITEM + 1], axis=1))
    return Interaction({"item": torch.from_numpy(ITEM), "list": lists})


@pytest.mark.parametrize(
    "index",
    [
        3, slice(2, 9, 3), [4, 0, 4], np.array([9, 1]), torch.tensor([7]), torch.arange(10) > 6,
        (ITEM > 20).nonzero(),
    ],
    ids=str,
)  # fmt: skip
def test_any_index_gives_what_a_plain_interaction_gives(rows, plain, index):
    found, expected = rows[index], plain[index]
    assert list(found) == list(expected)
    for name in expected:
        assert torch.equal(found[name], expected[name])


def test_only_the_rows_asked_for_are_cut(rows, calls):
    assert len(rows) == 10 and rows["item"].tolist() == ITEM.tolist()
    assert calls == []
    rows[[5, 2]]
    assert calls == [[5, 2]]
    assert "list" in rows and rows.columns == ["item", "list"]


def test_a_whole_column_is_cut_once_and_then_kept(rows, plain, calls):
    assert torch.equal(rows["list"], plain["list"])
    assert torch.equal(rows[[3]]["list"], plain[[3]]["list"])
    assert calls == [list(range(10))]
