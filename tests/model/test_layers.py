"""Shared parts of the models: adapters, item embedding, losses; hand-computed or by brute force."""

import math

import numpy as np
import pytest
import torch
from slow_reference import alignment
from torch import nn

from recbole_edt.model import losses
from recbole_edt.model.adapters import (
    LinearAdapter,
    ResidualAdapter,
    start_leading_,
    start_principal_,
    start_projection_,
)
from recbole_edt.model.item_embedding import ItemEmbedding, start_reduced_
from recbole_edt.model.lookup import ItemLookup
from recbole_edt.model.losses import alignment_loss, bpr_loss, hard_negatives, softmax_loss
from recbole_edt.model.text import Whitening


def set_layer(layer: nn.Linear, weight, bias) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


# -- eqs. 7 and 10: adapters ----------------------------------------------------------------------


def test_eq7_hand_computed() -> None:
    adapter = LinearAdapter(2, 1, 2)
    set_layer(adapter.inner, [[2.0, -1.0]], [3.0])
    set_layer(adapter.outer, [[1.0], [-2.0]], [0.5, 4.0])
    # W2 e + b2 = 2 * 1 - 1 * 4 + 3 = 1;  W1 1 + b1 = [1.5, 2]
    assert adapter(torch.tensor([1.0, 4.0])).tolist() == [1.5, 2.0]


def test_folded_adapter_is_the_two_step_map_with_the_same_gradients() -> None:
    torch.manual_seed(0)
    adapter = LinearAdapter(6, 3, 4).double()
    inputs = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 5, 4, dtype=torch.float64)
    wanted = (*adapter.parameters(), inputs)
    assert len(wanted) == 5  # W2, b2, W1, b1 and the inputs

    folded = adapter(inputs)
    two_step = adapter.outer(adapter.inner(inputs))
    assert torch.allclose(folded, two_step)
    mine = torch.autograd.grad((folded.sin() * weights).sum(), wanted)
    theirs = torch.autograd.grad((two_step.sin() * weights).sum(), wanted)
    for one, other in zip(mine, theirs, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other)


def test_eq10_zero_start_adds_nothing_and_can_leave_it() -> None:
    adapter = LinearAdapter(4, 2, 4, zero=True)
    inputs = torch.randn(3, 4)
    assert not adapter(inputs).any()
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in adapter.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        (adapter(inputs) - 1).square().sum().backward()
        optimizer.step()
    for old, new in zip(before, adapter.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_residual_adapter_hand_computed() -> None:
    adapter = ResidualAdapter(2, 2)
    inputs = torch.tensor([1.0, -2.0])
    assert adapter(inputs).tolist() == [1.0, -2.0]  # starts as the identity
    set_layer(adapter.inner, [[1.0, 1.0], [0.0, -1.0]], [0.0, 1.0])
    set_layer(adapter.outer, [[5.0, 1.0], [7.0, 2.0]], [0.5, 0.0])
    # W h = [-1, 3] -> ReLU [0, 3] -> [3.5, 6] -> plus h
    assert adapter(inputs).tolist() == [4.5, 4.0]


# -- item embedding -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("text", {"adapter.inner", "adapter.outer"}),
        ("id", {"table"}),
        ("both", {"adapter.inner", "adapter.outer", "table"}),
    ],
)
def test_kinds_of_item_embedding_and_their_parameters(kind, names) -> None:
    text = None if kind == "id" else torch.randn(5, 6)
    embedding = ItemEmbedding(kind, 5, 4, text)
    assert {name.rpartition(".")[0] for name, _ in embedding.named_parameters()} == names
    assert {name.rpartition(".")[0] for name in embedding.state_dict()} == names
    items = torch.tensor([[3, 1], [0, 3]])
    expected = torch.zeros(2, 2, 4)
    if kind != "id":
        expected = expected + embedding.adapter.outer(embedding.adapter.inner(text[items]))
    if kind != "text":
        expected = expected + embedding.table.weight[items]
    assert torch.allclose(embedding(items), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["text", "both"])
def test_text_is_frozen_and_moves_with_the_model_but_is_not_saved(kind) -> None:
    text = torch.randn(5, 6)
    before = text.clone()
    embedding = ItemEmbedding(kind, 5, 4, text)
    assert "text" in dict(embedding.named_buffers())
    assert "text" not in embedding.state_dict()
    optimizer = torch.optim.SGD(embedding.parameters(), lr=1.0)
    embedding(torch.arange(5)).square().sum().backward()
    optimizer.step()
    assert torch.equal(embedding.text, before)
    assert embedding.text.grad is None


def test_principal_start_keeps_the_directions_that_vary_most() -> None:
    adapter = LinearAdapter(3, 2, 1)
    text = torch.tensor([[0.0, 4, 0], [0, -4, 0], [2, 0, 0], [-2, 0, 0], [0, 0, 1], [0, 0, -1]])
    start_principal_(adapter, text, torch.ones(len(text), dtype=torch.bool))
    assert torch.allclose(adapter.inner.weight, torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
    assert torch.allclose(adapter(text).squeeze(1), torch.tensor([1.0, -1, 0, 0, 0, 0]))


def test_principal_start_fits_adapters_wider_than_their_input() -> None:
    adapter = LinearAdapter(4, 2, 6)
    text = torch.randn(20, 4)
    start_principal_(adapter, text, torch.ones(len(text), dtype=torch.bool))
    assert torch.isfinite(adapter(text)).all()
    assert adapter(text)[:, 2:].abs().max() == 0


def test_adapter_of_whitened_text_starts_as_its_leading_axes() -> None:
    text = torch.randn(30, 6)
    rows = Whitening(text, torch.ones(30, dtype=torch.bool), 3)(text)
    adapter = LinearAdapter(6, 3, 3)
    start_leading_(adapter)
    assert torch.allclose(adapter(rows), rows[:, :3] * 16)
    lengths = torch.linalg.vector_norm(adapter(rows), dim=1)
    assert torch.allclose(lengths, torch.full((30,), math.sqrt(3) / 16))


def test_projection_start_hand_computed() -> None:
    # centred, the fitted rows are (+-3, 0, 0), (0, +-2, 0), (0, 0, +-1); the last row counts not
    vectors = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]])
    vectors = torch.cat([vectors + torch.tensor([1.0, 5, 7]), torch.tensor([[0.0, 0, 99]])])
    fitted = torch.tensor([True] * 6 + [False])
    adapter = LinearAdapter(3, 2, 3)
    start_projection_(adapter, vectors, fitted)
    assert torch.allclose(adapter(torch.tensor([4.0, 6, 8])), torch.tensor([4.0, 6, 0]))
    # both layers take part, so that both are trained from the first step on
    adapter(torch.randn(5, 3)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in adapter.parameters())


def test_projection_start_of_a_wide_bottleneck_is_the_identity() -> None:
    adapter = LinearAdapter(3, 8, 3)
    vectors = torch.randn(20, 3)
    start_projection_(adapter, vectors, torch.ones(20, dtype=torch.bool))
    states = torch.randn(4, 3)
    assert torch.allclose(adapter(states), states, atol=1e-5)


def test_projection_start_without_items_changes_nothing() -> None:
    adapter = LinearAdapter(3, 2, 3)
    before = [parameter.clone() for parameter in adapter.parameters()]
    start_projection_(adapter, torch.randn(4, 3), torch.zeros(4, dtype=torch.bool))
    for parameter, old in zip(adapter.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_reduced_start_hand_computed() -> None:
    table = torch.tensor([[9.0, 9], [3, 3], [3, 3], [3, 3], [9, 9]])
    text = torch.tensor([[0.0, 0, 0], [1, 5, 2], [1, -3, 2], [1, 1, 2], [1, 3, 2]])
    fitted = torch.tensor([False, True, True, False, False])
    items = torch.tensor([False, True, True, True, False])
    start_reduced_(table, text, items, fitted)
    # centre (1, 1, 2), first direction the second entry: 4, -4 and, not fitted, 0. The second
    # direction is empty; the fitted entries' mean square, 8, becomes that of the table, 9
    scale = 3 / math.sqrt(8)
    assert torch.allclose(table[1:4, 0], torch.tensor([4.0, -4, 0]) * scale)
    assert torch.allclose(table[1:4, 1], torch.zeros(3), atol=1e-6)
    assert table[[0, 4]].tolist() == [[9, 9], [9, 9]]


def test_reduced_start_leaves_the_table_alone_where_texts_are_alike() -> None:
    table = torch.ones(3, 2)
    items = torch.tensor([False, True, True])
    start_reduced_(table, torch.full((3, 2), 4.0), items, items)
    assert torch.equal(table, torch.ones(3, 2))


def test_lookup_of_columns_is_a_part_of_the_whole() -> None:
    embedding = ItemEmbedding("id", 9, 4, None)
    items = torch.tensor([[7, 2, 0], [2, 2, 7]])
    part = ItemLookup(embedding, 9, items).columns(1, 3)
    assert torch.equal(part(items), embedding.table.weight[items][..., 1:3])
    part(items).sum().backward()
    expected = torch.zeros(9, 4)
    expected[[0, 2, 7], 1:3] = torch.tensor([1.0, 3.0, 2.0])[:, None]
    assert torch.equal(embedding.table.weight.grad, expected)


def test_lookup_computes_each_distinct_item_once() -> None:
    embedding = ItemEmbedding("both", 9, 4, torch.randn(9, 6))
    asked = []
    embedding.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].tolist()))
    first, second = torch.tensor([[7, 2, 0], [2, 2, 7]]), torch.tensor([5, 7])
    lookup = ItemLookup(embedding, 9, first, second)
    found = lookup(first), lookup(second)
    assert asked == [[0, 2, 5, 7] + [0] * 60]  # filled up with padding
    assert found[0].shape == (2, 3, 4)
    for items, vectors in zip((first, second), found, strict=True):
        assert torch.allclose(vectors, embedding(items), atol=1e-6)


def test_lookup_passes_gradients_of_every_use() -> None:
    embedding = ItemEmbedding("id", 4, 2, None)
    items = torch.tensor([2, 3, 2])
    ItemLookup(embedding, 4, items)(items).sum().backward()
    assert embedding.table.weight.grad.tolist() == [[0, 0], [0, 0], [2, 2], [1, 1]]


# -- eqs. 9 and 12: next-item losses --------------------------------------------------------------


def test_bpr_hand_computed() -> None:
    """Scores of the positives: 2, 1, -1; of the negatives: 0, 1, 2."""
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    positives = torch.tensor([[2.0, 9.0], [9.0, 1.0], [-3.0, 2.0]])
    negatives = torch.tensor([[0.0, 9.0], [9.0, 1.0], [4.0, -2.0]])
    expected = [math.log(1 + math.exp(-gap)) for gap in (2.0, 0.0, -3.0)]
    assert float(bpr_loss(states, positives, negatives)) == pytest.approx(sum(expected), rel=1e-6)


def test_bpr_is_finite_for_hopeless_scores() -> None:
    states = torch.tensor([[1.0]], requires_grad=True)
    loss = bpr_loss(states, torch.tensor([[-1e4]]), torch.tensor([[1e4]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert states.grad.tolist() == [[2e4]]


@pytest.mark.parametrize("width", [24, 21])
def test_few_owned_negatives_are_found_in_order(width) -> None:
    torch.manual_seed(0)
    mask = torch.rand(40, width) < 0.05
    mask[3], mask[7] = True, False
    found = losses._nonzero_of_few(mask)
    assert all(map(torch.equal, found, torch.nonzero(mask, as_tuple=True)))


def test_softmax_over_all_items_is_the_full_softmax() -> None:
    """All items drawn, none owned but the target, which is counted as the positive already."""
    rng = np.random.default_rng(0)
    states, items = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    targets = [5, 0, 0, 2]
    owned = np.arange(6) == np.array(targets)[:, None]
    arrays = (states, items[targets], items, owned, np.arange(4))
    loss = softmax_loss(*map(torch.from_numpy, arrays))
    expected = 0.0
    for row, target in enumerate(targets):
        scores = [math.exp(states[row] @ item) for item in items]
        expected -= math.log(scores[target] / sum(scores))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", [2, 3, 100])
def test_softmax_gradients_in_blocks_are_those_of_the_plain_formula(rows, monkeypatch) -> None:
    monkeypatch.setitem(losses._ROWS, "cpu", rows)
    torch.manual_seed(0)
    inputs = [torch.randn(n, 4, requires_grad=True) for n in (7, 7, 5)]
    owned, owners = torch.rand(3, 5) < 0.4, torch.tensor([0, 0, 1, 1, 2, 2, 2])

    def plain(states, positives, negatives):
        own = (states * positives).sum(-1, keepdim=True)
        others = (states @ negatives.T).masked_fill(owned[owners], -torch.inf)
        return (torch.logsumexp(torch.cat([own, others], 1), 1) - own[:, 0]).sum()

    ours, slow = softmax_loss(*inputs, owned, owners), plain(*inputs)
    assert ours.item() == pytest.approx(slow.item(), rel=1e-5)
    gradients = torch.autograd.grad(2.5 * ours, inputs)
    for mine, reference in zip(gradients, torch.autograd.grad(2.5 * slow, inputs), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


def test_softmax_of_frozen_items_gives_the_states_the_same_gradient() -> None:
    torch.manual_seed(0)
    states, positives, negatives = inputs = [torch.randn(n, 4) for n in (7, 7, 5)]
    owned, owners = torch.rand(3, 5) < 0.4, torch.tensor([0, 0, 1, 1, 2, 2, 2])
    for needed in (inputs, [states], [states, positives], [negatives]):
        for tensor in inputs:
            tensor.requires_grad_(any(tensor is other for other in needed))
        got = torch.autograd.grad(softmax_loss(*inputs, owned, owners), needed)
        if needed is inputs:
            whole = dict(zip(map(id, inputs), got, strict=True))
        for tensor, gradient in zip(needed, got, strict=True):
            assert torch.equal(gradient, whole[id(tensor)])


def test_softmax_hand_computed_with_owned_negatives() -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    positives = torch.tensor([[1.0, 5.0], [3.0, 0.5]])  # scores 1 and 1
    negatives = torch.tensor([[0.0, 1.0], [2.0, -1.0]])  # scores [0, 2] and [2, -2]
    owned = torch.tensor([[False, True], [False, False]])
    loss = softmax_loss(states, positives, negatives, owned, torch.arange(2))
    first = math.log(math.e + 1) - 1
    second = math.log(math.e + math.exp(2) + math.exp(-2)) - 1
    assert float(loss) == pytest.approx(first + second, rel=1e-6)


def test_softmax_where_every_negative_is_owned_loses_nothing() -> None:
    states = torch.randn(1, 2, requires_grad=True)
    owned = torch.ones(1, 3, dtype=torch.bool)
    loss = softmax_loss(states, torch.randn(1, 2), torch.randn(3, 2), owned, torch.tensor([0]))
    loss.backward()
    assert float(loss) == 0.0
    assert states.grad.tolist() == [[0.0, 0.0]]


def test_softmax_gives_owned_negatives_no_gradient() -> None:
    negatives = torch.randn(3, 2, requires_grad=True)
    owned = torch.tensor([[False, True, False]])
    row = torch.tensor([0])
    softmax_loss(torch.randn(1, 2), torch.randn(1, 2), negatives, owned, row).backward()
    assert negatives.grad.abs().sum(1).gt(0).tolist() == [True, False, True]


# -- eq. 13: alignment ----------------------------------------------------------------------------


def test_eq13_two_users_hand_computed() -> None:
    users = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    profiles = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    # cosines: u1 to (p1, p2) = (.6, 0), u2 to (p1, p2) = (.8, 1); temperature .5 doubles them
    printed = (-1.2 + 0.0) + (-2.0 + 1.6)  # users to profiles: the one negative over the positive
    other_side = (-1.2 + 1.6) + (-2.0 + 0.0)  # profiles to users
    assert float(alignment_loss(users, profiles, 0.5, infonce=False)) == pytest.approx(
        (printed + other_side) / 2, rel=1e-5
    )
    e = math.exp
    infonce = (
        -math.log(e(1.2) / (e(1.2) + e(0.0)))
        - math.log(e(2.0) / (e(1.6) + e(2.0)))
        - math.log(e(1.2) / (e(1.2) + e(1.6)))
        - math.log(e(2.0) / (e(0.0) + e(2.0)))
    ) / 2
    assert float(alignment_loss(users, profiles, 0.5, infonce=True)) == pytest.approx(
        infonce, rel=1e-5
    )


@pytest.mark.parametrize("infonce", [False, True])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_eq13_equals_pair_by_pair(n, infonce) -> None:
    rng = np.random.default_rng(n)
    users, profiles = rng.normal(size=(2, n, 5))
    loss = alignment_loss(torch.from_numpy(users), torch.from_numpy(profiles), 0.3, infonce)
    assert float(loss) == pytest.approx(alignment(users, profiles, 0.3, infonce), rel=1e-5)


@pytest.mark.parametrize("infonce", [False, True])
def test_eq13_is_symmetric_and_blind_to_length_and_order(infonce) -> None:
    torch.manual_seed(0)
    users, profiles = torch.randn(2, 5, 4)
    loss = float(alignment_loss(users, profiles, 0.2, infonce))
    order = torch.tensor([3, 0, 4, 1, 2])
    for other in (
        alignment_loss(profiles, users, 0.2, infonce),
        alignment_loss(users * 7, profiles * 0.1, 0.2, infonce),
        alignment_loss(users[order], profiles[order], 0.2, infonce),
    ):
        assert float(other) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("n", [0, 1])
def test_eq13_without_negatives_is_zero_and_harmless(n) -> None:
    users = torch.randn(n, 4, requires_grad=True)
    loss = alignment_loss(users, torch.randn(n, 4), 0.1, infonce=False)
    loss.backward()
    assert loss.item() == 0.0
    assert not users.grad.any()


# -- hard negatives -------------------------------------------------------------------------------


def test_hard_negatives_follow_the_softmax_of_scores_over_temperature() -> None:
    torch.manual_seed(0)
    n = 60_000
    states = torch.tensor([[1.0, 0.0]]).expand(n, 2)
    pool = torch.tensor([[0.0, 5.0], [math.log(2) / 2, 0.0], [math.log(6) / 2, 1.0], [9.0, 0.0]])
    owned = torch.tensor([[False, False, False, True]])
    drawn = hard_negatives(states, pool, owned, torch.zeros(n, dtype=torch.int64), 0.5)
    # exp(score / 0.5) is 1, 2, 6; the last one is the user's own
    shares = torch.bincount(drawn, minlength=4) / n
    assert torch.allclose(shares, torch.tensor([1 / 9, 2 / 9, 6 / 9, 0.0]), atol=0.01)


def test_hard_negatives_of_huge_scores_are_the_hardest() -> None:
    states = torch.tensor([[1e4], [-1e4]])
    pool = torch.tensor([[1.0], [2.0], [3.0]])
    owned = torch.zeros(1, 3, dtype=torch.bool)
    assert hard_negatives(states, pool, owned, torch.tensor([0, 0]), 0.1).tolist() == [2, 0]


def test_hard_negatives_of_a_user_who_owns_all_are_still_rows_of_the_pool() -> None:
    drawn = hard_negatives(
        torch.randn(3, 2),
        torch.randn(4, 2),
        torch.ones(1, 4, dtype=torch.bool),
        torch.zeros(3, dtype=torch.int64),
        1.0,
    )
    assert ((drawn >= 0) & (drawn < 4)).all()
