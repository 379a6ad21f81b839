"""What the benchmark's floor counts is what PyTorch's own counter sees in a training step."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import floor

SIZES = floor.Sizes(
    lengths=[3, 1, 4],
    positions=[5, 3],
    negatives=[6, 7],
    n_distinct=20,
    hidden=8,
    inner=12,
    n_layers=2,
    text=10,
    bottleneck=5,
    table=30,
    n_parameters=100,
)


def flops(layers) -> int:
    return sum(layer.flops * layer.n_products for layer in layers)


def counted(step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def test_backbone_is_what_its_linear_layers_cost() -> None:
    d, f = SIZES.hidden, SIZES.inner
    block = [nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, f), nn.Linear(f, d)]

    def step() -> None:
        for _ in range(SIZES.n_layers):
            for layer in block:
                states = torch.randn(sum(SIZES.lengths), layer.in_features, requires_grad=True)
                layer(states).sum().backward()

    assert flops(floor.backbone_layers(SIZES)) == counted(step)


def test_adapter_is_folded_and_its_text_has_no_gradient() -> None:
    inner = torch.randn(SIZES.bottleneck, SIZES.text, requires_grad=True)
    outer = torch.randn(SIZES.hidden, SIZES.bottleneck, requires_grad=True)
    text = torch.randn(SIZES.n_distinct, SIZES.text)
    assert flops(floor.adapter_layers(SIZES)) == counted(
        lambda: F.linear(text, outer @ inner).sum().backward()
    )


def test_loss_is_three_products_a_domain() -> None:
    def step() -> None:
        for n, m in zip(SIZES.positions, SIZES.negatives, strict=True):
            states = torch.randn(n, SIZES.hidden, requires_grad=True)
            negatives = torch.randn(m, SIZES.hidden, requires_grad=True)
            (states @ negatives.T).logsumexp(1).sum().backward()

    assert flops(floor.loss_layers(SIZES)) == counted(step)


def test_attention_counts_the_pairs_that_may_be_seen_alone() -> None:
    assert floor.attention_flops(SIZES) == 2 * 6 * 2 * (6 + 1 + 10) * 8

    def step() -> None:  # one sequence of length one: all pairs may be seen
        query, key, value = torch.randn(3, 1, 8, requires_grad=True).unbind()
        ((query @ key.T) @ value).sum().backward()

    one = floor.Sizes(**{**vars(SIZES), "lengths": [1], "n_layers": 1})
    assert floor.attention_flops(one) == counted(step)


def test_rates_are_measured_for_every_layer_of_a_step_and_batches_add_up() -> None:
    rates = floor.measure_rates(SIZES, n_heads=2)
    one, three = (floor.floor_of_epoch([SIZES] * n, rates) for n in (1, 3))
    assert all(second > 0 for second in vars(one).values())
    assert three.total == pytest.approx(3 * one.total)
