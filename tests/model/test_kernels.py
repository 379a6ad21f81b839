"""The faster kernels say what PyTorch's own do, in values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from slow_reference import CONFIG, SEQUENCES, TinyShop, training_batch

from recbole_edt.model import kernels, packing
from recbole_edt.model.llmedt import LLMEDT


@pytest.mark.parametrize("n", [0, 3, 64, 200])
def test_linear_is_pytorchs_with_the_same_gradients(n) -> None:
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(n, 8), torch.randn(5, 8), torch.randn(5)
    above = torch.randn(n, 5)
    outcomes = []
    for function in (kernels.linear, F.linear):
        parts = [x.clone().requires_grad_() for x in (inputs, weight, bias)]
        out = function(*parts)
        out.backward(above)
        outcomes.append([out, *(x.grad for x in parts)])
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [5, 64, 128, 130])
@pytest.mark.parametrize(("k", "m"), [(3, 7), (7, 3), (3, 80), (80, 3)])
def test_inner_product_sums_over_rows(n, k, m) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(n, k), torch.randn(n, m)
    torch.testing.assert_close(
        kernels.inner_product(left, right), left.T @ right, rtol=1e-4, atol=1e-4
    )


def test_linear_stays_lowered_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernels.linear(torch.randn(64, 4), torch.randn(3, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_the_mean(rate) -> None:
    torch.manual_seed(0)
    states = torch.ones(400, 500, requires_grad=True)
    out = kernels.dropout(states, rate, True)
    kept = out > 0
    assert float(kept.float().mean()) == pytest.approx(1 - rate, abs=0.005)
    assert torch.allclose(out[kept], torch.tensor(1 / (1 - rate)), rtol=1e-4)
    out.sum().backward()
    assert torch.equal(states.grad, out.detach())


def test_dropout_of_neighbours_is_independent() -> None:
    torch.manual_seed(0)
    kept = (kernels.dropout(torch.ones(1000, 1000), 0.5, True) > 0).float() - 0.5
    for shift in range(1, 9):
        assert abs(float((kept[:, shift:] * kept[:, :-shift]).mean()) * 4) < 0.005
    assert abs(float((kept[1:] * kept[:-1]).mean()) * 4) < 0.005


def test_add_dropout_is_dropout_and_a_sum() -> None:
    states, added = torch.randn(6, 5), torch.randn(6, 5)
    torch.manual_seed(1)
    expected = states + kernels.dropout(added, 0.4, True)
    torch.manual_seed(1)
    torch.testing.assert_close(kernels.add_dropout(states, added, 0.4, True), expected)


@pytest.mark.parametrize("causal", [True, False])
def test_tiled_attention_is_attention_sequence_by_sequence(causal) -> None:
    torch.manual_seed(0)
    n_heads, size = 2, 6
    tiles, lengths = [(2, 6), (1, 3)], [4, 2, 5, 1, 1, 2]  # the fourth one is an empty row
    steps = sum(lengths)
    owner = torch.repeat_interleave(torch.arange(6), torch.tensor(lengths))
    masks = packing.tile_masks(owner, tiles, causal, torch.float64)
    qkv = torch.randn(steps + 2, 3 * size, dtype=torch.float64, requires_grad=True)
    ours = kernels.tiled_attention(qkv, tiles, masks, n_heads)
    pieces, start = [], 0
    for length in lengths:
        query, key, value = (
            x.view(length, n_heads, -1).transpose(0, 1)
            for x in qkv[start : start + length].chunk(3, dim=-1)
        )
        logits = query @ key.transpose(1, 2) / (size / n_heads) ** 0.5
        if causal:
            later = torch.ones(length, length, dtype=torch.bool).triu(1)
            logits = logits.masked_fill(later, -torch.inf)
        pieces.append((logits.softmax(-1) @ value).transpose(0, 1).reshape(length, size))
        start += length
    slow = torch.cat([*pieces, torch.zeros(2, size, dtype=torch.float64)])
    torch.testing.assert_close(ours, slow)
    above = torch.randn_like(slow)
    torch.testing.assert_close(
        torch.autograd.grad(ours, qkv, above)[0], torch.autograd.grad(slow, qkv, above)[0]
    )


@pytest.mark.parametrize("n", [1, 40, 3000])
def test_rows_looked_up_together_add_to_one_gradient(n) -> None:
    torch.manual_seed(0)
    values = torch.randn(60, 8)
    indices = [torch.randint(60, (n,)) for _ in range(3)]
    above = [torch.randn(n, 8) for _ in indices]
    outcomes = []
    for look_up_each in (
        kernels.look_up_each,
        kernels.look_up_each,
        lambda table, *indices: tuple(F.embedding(index, table) for index in indices),
    ):
        table = values.clone().requires_grad_()
        found = look_up_each(table, *indices)
        torch.autograd.backward(found, above)
        outcomes.append((found, table.grad))
    (ours, gradient), (_, again), (theirs, expected) = outcomes
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    assert torch.equal(gradient, again)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def unchecked(monkeypatch):
    """As at the start of a process: nothing has been checked, and fast ways are allowed."""
    monkeypatch.setattr(kernels, "_allowed", True)
    kernels._products_work.cache_clear()
    yield
    kernels._products_work.cache_clear()


def trained(backbone: str, **options) -> list[float]:
    """Train a small model in float32 for some steps; return its losses."""
    config = {**CONFIG, "loss": "softmax", "backbone": backbone, "dropout": 0.0, **options}
    torch.manual_seed(0)
    model = LLMEDT({**config, "item_embedding": "both"}, TinyShop())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out = []
    for stage in (1, 2):
        if stage == 2:
            model.begin_finetuning()
        for _ in range(3):
            optimizer.zero_grad()
            # enough rows for products of 64
            loss = model.train().calculate_loss(training_batch(tuple(SEQUENCES) * 10))
            loss.backward()
            optimizer.step()
            out.append(loss.item())
    return out


def test_products_pass_their_check_which_draws_no_numbers(unchecked, caplog) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with caplog.at_level("WARNING"):
        assert kernels._products_work()
    assert torch.equal(torch.rand(1), expected)
    assert not caplog.records


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
def test_losses_with_and_without_fast_kernels_agree_to_rounding(
    unchecked, monkeypatch, backbone
) -> None:
    fast = trained(backbone)
    monkeypatch.setattr(kernels, "_product", None)  # not called
    assert trained(backbone, fast_kernels="off") == pytest.approx(fast, rel=1e-5)


def broken(*_):
    raise RuntimeError("expected 5 arguments\nand more")


@pytest.mark.parametrize(
    ("operator", "replacement", "said"),
    [
        ("_product", broken, "RuntimeError: expected 5 arguments"),
        ("_product", lambda left, right, _: left @ right.T + 1, "not PyTorch's own"),
        ("_summed_over_rows", broken, "RuntimeError"),
    ],
)
def test_a_broken_operator_turns_fast_products_off_with_one_line(
    unchecked, monkeypatch, caplog, operator, replacement, said
) -> None:
    monkeypatch.setattr(kernels, operator, replacement)
    with caplog.at_level("WARNING"):
        losses = trained("sasrec", dropout=0.5)
    assert all(map(math.isfinite, losses))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "fast products" in line and said in line and "\n" not in line
