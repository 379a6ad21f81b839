"""Adapters of eqs. 7 and 10 and their starts, computed by hand."""

import torch
from torch import nn

from recbole_edt.model.adapters import (
    LinearAdapter,
    ResidualAdapter,
    start_principal_,
    start_projection_,
)


def set_layer(layer: nn.Linear, weight, bias) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


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


def test_residual_adapter_hand_computed() -> None:
    adapter = ResidualAdapter(2, 2)
    inputs = torch.tensor([1.0, -2.0])
    assert adapter(inputs).tolist() == [1.0, -2.0]  # starts as the identity
    set_layer(adapter.inner, [[1.0, 1.0], [0.0, -1.0]], [0.0, 1.0])
    set_layer(adapter.outer, [[5.0, 1.0], [7.0, 2.0]], [0.5, 0.0])
    # W h = [-1, 3] -> ReLU [0, 3] -> [3.5, 6] -> plus h
    assert adapter(inputs).tolist() == [4.5, 4.0]
    adapter.scale.fill_(0.5)
    assert adapter(inputs).tolist() == [4.0, 5.0]


def test_principal_start_keeps_the_directions_that_vary_most() -> None:
    adapter = LinearAdapter(3, 2, 1)
    text = torch.tensor([[0.0, 4, 0], [0, -4, 0], [2, 0, 0], [-2, 0, 0], [0, 0, 1], [0, 0, -1]])
    start_principal_(adapter, text, torch.ones(len(text), dtype=torch.bool))
    assert torch.allclose(adapter.inner.weight, torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
    assert torch.allclose(adapter(text).squeeze(1), torch.tensor([1.0, -1, 0, 0, 0, 0]))


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
