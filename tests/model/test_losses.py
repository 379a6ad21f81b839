"""Losses of eqs. 9, 12 and 13, computed by hand or by brute force."""

import math

import numpy as np
import pytest
import torch
from slow_reference import alignment

from recbole_edt.model import losses
from recbole_edt.model.losses import alignment_loss, bpr_loss, sample_hard_negatives, softmax_loss


def test_bpr_hand_computed() -> None:
    """Scores of the positives: 2, 1, -1; of the negatives: 0, 1, 2."""
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    positives = torch.tensor([[2.0, 9.0], [9.0, 1.0], [-3.0, 2.0]])
    negatives = torch.tensor([[0.0, 9.0], [9.0, 1.0], [4.0, -2.0]])
    expected = [math.log(1 + math.exp(-gap)) for gap in (2.0, 0.0, -3.0)]
    assert float(bpr_loss(states, positives, negatives)) == pytest.approx(sum(expected), rel=1e-6)
    weighted = bpr_loss(states, positives, negatives, weights=torch.tensor([0.5, 2.0, 0.0]))
    assert float(weighted) == pytest.approx(0.5 * expected[0] + 2.0 * expected[1], rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [2, 3, 100])
def test_softmax_gradients_in_blocks_are_those_of_the_plain_formula(
    rows, weighted, monkeypatch
) -> None:
    monkeypatch.setitem(losses._ROWS, "cpu", rows)
    torch.manual_seed(0)
    inputs = [torch.randn(n, 4, requires_grad=True) for n in (7, 7, 5)]
    seen_mask, batch_index = torch.rand(3, 5) < 0.4, torch.tensor([0, 0, 1, 1, 2, 2, 2])
    weights = torch.rand(7) if weighted else None

    def plain(states, positives, negatives):
        own = (states * positives).sum(-1, keepdim=True)
        others = (states @ negatives.T).masked_fill(seen_mask[batch_index], -torch.inf)
        terms = torch.logsumexp(torch.cat([own, others], 1), 1) - own[:, 0]
        return (terms * weights if weighted else terms).sum()

    ours, slow = softmax_loss(*inputs, seen_mask, batch_index, weights), plain(*inputs)
    assert ours.item() == pytest.approx(slow.item(), rel=1e-5)
    gradients = torch.autograd.grad(2.5 * ours, inputs)
    for mine, reference in zip(gradients, torch.autograd.grad(2.5 * slow, inputs), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


def test_softmax_of_frozen_items_gives_the_states_the_same_gradient() -> None:
    torch.manual_seed(0)
    states, positives, negatives = inputs = [torch.randn(n, 4) for n in (7, 7, 5)]
    seen_mask, batch_index = torch.rand(3, 5) < 0.4, torch.tensor([0, 0, 1, 1, 2, 2, 2])
    for needed in (inputs, [states], [states, positives], [negatives]):
        for tensor in inputs:
            tensor.requires_grad_(any(tensor is other for other in needed))
        got = torch.autograd.grad(softmax_loss(*inputs, seen_mask, batch_index), needed)
        if needed is inputs:
            whole = dict(zip(map(id, inputs), got, strict=True))
        for tensor, gradient in zip(needed, got, strict=True):
            assert torch.equal(gradient, whole[id(tensor)])


def test_softmax_where_every_negative_is_seen_loses_nothing() -> None:
    states = torch.randn(1, 2, requires_grad=True)
    seen_mask = torch.ones(1, 3, dtype=torch.bool)
    loss = softmax_loss(states, torch.randn(1, 2), torch.randn(3, 2), seen_mask, torch.tensor([0]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert states.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("infonce", [False, True])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_eq13_equals_pair_by_pair(n, infonce) -> None:
    rng = np.random.default_rng(n)
    users, profiles = rng.normal(size=(2, n, 5))
    loss = alignment_loss(torch.from_numpy(users), torch.from_numpy(profiles), 0.3, infonce)
    assert float(loss) == pytest.approx(alignment(users, profiles, 0.3, infonce), rel=1e-5)


@pytest.mark.parametrize("n", [0, 1])
def test_eq13_without_negatives_is_zero_and_harmless(n) -> None:
    users = torch.randn(n, 4, requires_grad=True)
    loss = alignment_loss(users, torch.randn(n, 4), 0.1, infonce=False)
    loss.backward()
    assert loss.item() == 0.0
    assert not users.grad.any()


def test_hard_negatives_follow_the_softmax_of_scores_over_temperature() -> None:
    torch.manual_seed(0)
    n = 60_000
    states = torch.tensor([[1.0, 0.0]]).expand(n, 2)
    pool = torch.tensor([[0.0, 5.0], [math.log(2) / 2, 0.0], [math.log(6) / 2, 1.0], [9.0, 0.0]])
    seen_mask = torch.tensor([[False, False, False, True]])
    drawn = sample_hard_negatives(states, pool, seen_mask, torch.zeros(n, dtype=torch.int64), 0.5)
    # exp(score / 0.5) is 1, 2, 6; the last one is the user's own
    shares = torch.bincount(drawn, minlength=4) / n
    assert torch.allclose(shares, torch.tensor([1 / 9, 2 / 9, 6 / 9, 0.0]), atol=0.01)


def test_hard_negatives_of_a_user_who_has_all_are_still_rows_of_the_pool() -> None:
    seen_mask, batch_index = torch.ones(1, 4, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    drawn = sample_hard_negatives(torch.randn(3, 2), torch.randn(4, 2), seen_mask, batch_index, 1.0)
    assert ((drawn >= 0) & (drawn < 4)).all()
