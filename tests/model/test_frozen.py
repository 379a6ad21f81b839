"""Stage 2 from states computed once: the same losses, gradients and parameters as without them."""

import copy

import pytest
import torch
from slow_reference import CONFIG, SIZE, TinyShop, build

from recbole_edt.data.dataloader import SequenceLoader
from recbole_edt.model import frozen
from recbole_edt.model.llmedt import LLMEDT, LLMEDTFinetune

CAUSAL = pytest.mark.parametrize("backbone", ["sasrec", "gru4rec"])
POSITIONS = pytest.mark.parametrize("positions", ["frozen", "learned"])


def finetuned(model_class=LLMEDT, **options):
    """Make a model in stage 2 whose adapters and domain positions have moved, and its loader.

    Histories are longer than the longest window, so that users have several.
    """
    shop = TinyShop(max_length=3)
    options = {"MAX_ITEM_LIST_LENGTH": 3, "train_batch_size": 2, **options}
    model = build(model_class, shop=shop, **options)
    model.begin_finetuning()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("domain_"):
                parameter.add_(torch.randn(parameter.shape, dtype=torch.float64) * 0.3)
    return model.train(), SequenceLoader({**CONFIG, **options}, shop)


def gradients(model, loss):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)


def encodings(model, monkeypatch) -> list:
    """Count from now on how often the backbone runs."""
    calls, encode = [], model.encoder.before_targets

    def spy(*arguments):
        calls.append(arguments)
        return encode(*arguments)

    monkeypatch.setattr(model.encoder, "before_targets", spy)
    return calls


@pytest.mark.parametrize("model_class", [LLMEDT, LLMEDTFinetune])
@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("adapter", ["paper", "residual"])
@POSITIONS
@CAUSAL
def test_losses_and_gradients_are_those_computed_batch_by_batch(
    backbone, positions, adapter, loss, model_class, monkeypatch
) -> None:
    monkeypatch.setattr(frozen, "_BLOCK", 3)
    model, loader = finetuned(
        model_class, backbone=backbone, finetune_positions=positions, adapter=adapter, loss=loss
    )
    known = model.loss_over(loader)
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            mine, slow = known(batch), model.calculate_loss(batch)
            torch.testing.assert_close(mine, slow, rtol=1e-6, atol=1e-9)
            pairs = zip(gradients(model, mine), gradients(model, slow), strict=True)
            for one, other in pairs:
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)
    assert model._frozen is not None


@POSITIONS
def test_training_ends_with_the_same_parameters(positions) -> None:
    ends = []
    for cache in (64, 0):
        model, loader = finetuned(finetune_positions=positions, finetune_cache=cache)
        start = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        loss_of = model.loss_over(loader)
        for epoch in range(3):
            loader.set_epoch(epoch)
            for batch in loader:
                optimizer.zero_grad()
                loss_of(batch).backward()
                optimizer.step()
        assert (model._frozen is None) == (cache == 0)
        ends.append(model.state_dict())
    moved = {name for name, value in start.items() if not torch.equal(value, ends[0][name])}
    trained = ("domain_adapters.", "domain_positions.")[: 2 if positions == "learned" else 1]
    assert moved == {name for name in start if name.startswith(trained)}
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-6, atol=1e-9)


@CAUSAL
def test_with_frozen_positions_the_backbone_runs_once_for_all_epochs(backbone, monkeypatch) -> None:
    model, loader = finetuned(backbone=backbone, finetune_positions="frozen")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = encodings(model, monkeypatch)
    counts = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        loss_of = model.loss_over(loader)  # as the trainer asks for it, anew in each epoch
        for batch in loader:
            loss_of(batch).backward()
            optimizer.step()
        counts.append(len(calls))
    assert counts[0] == counts[2] == 3  # one block of windows: mixed, and either domain


def test_states_are_computed_anew_when_the_frozen_weights_change(monkeypatch) -> None:
    model, loader = finetuned(finetune_positions="frozen")
    loss_of = model.loss_over(loader)
    batch = next(iter(loader))
    before = loss_of(batch).item()
    other = {name: value * 1.5 for name, value in model.state_dict().items()}
    model.load_state_dict(other)
    calls = encodings(model, monkeypatch)
    after = loss_of(batch).item()
    assert len(calls) == 3
    assert after != before
    assert after == pytest.approx(model.calculate_loss(batch).item(), rel=1e-6)


def test_each_loader_has_its_own_states() -> None:
    """Windows of two loaders are other ones under the same numbers."""
    model, loader = finetuned(finetune_positions="frozen")
    uncut = SequenceLoader({**CONFIG, "train_batch_size": 2}, TinyShop(max_length=7))
    model.encoder.positions = torch.nn.Embedding(8, SIZE).double()
    for table in model.domain_positions:
        table.weight = torch.nn.Parameter(torch.randn(8, SIZE, dtype=torch.float64), False)
    assert len(loader.starts) != len(uncut.starts)
    for source in (loader, uncut, loader):
        batch = next(iter(source))
        known = model.loss_over(source)(batch).item()
        assert known == pytest.approx(model.calculate_loss(batch).item(), rel=1e-6)


@POSITIONS
def test_what_would_take_more_than_the_limit_is_computed_per_batch(positions, monkeypatch) -> None:
    model, loader = finetuned(finetune_positions=positions)
    in_domain = positions == "frozen"
    states = frozen.FrozenStates(model, loader, in_domain)
    tensors = (states.lookup.vectors, states.states, states.domain_states)
    held = [tensor for tensor in tensors if tensor is not None]
    size = frozen.FrozenStates.size(model, loader, in_domain)
    assert size == sum(t.numel() * 8 for t in held)  # float64
    batch = next(iter(loader))
    for limit, cached in ((size, True), (size - 1, False)):
        model.cache_bytes, model._frozen_of = limit, None
        model.loss_over(loader)(batch)
        assert (model._frozen is not None) == cached


def test_bidirectional_backbones_hide_other_targets_each_time_and_keep_nothing() -> None:
    model, loader = finetuned(backbone="bert4rec", finetune_positions="frozen")
    batch = next(iter(loader))
    torch.manual_seed(5)
    mine = model.loss_over(loader)(batch).item()
    torch.manual_seed(5)
    assert mine == model.calculate_loss(batch).item()
    assert model._frozen is None


def test_states_are_no_part_of_a_checkpoint() -> None:
    model, loader = finetuned(finetune_positions="frozen")
    names = set(model.state_dict())
    model.loss_over(loader)(next(iter(loader)))
    assert set(model.state_dict()) == names


def test_positions_that_are_frozen_are_the_global_ones_and_stay() -> None:
    model = build(LLMEDT, finetune_positions="frozen")
    model.begin_finetuning()
    for positions in model.own_positions():
        assert torch.equal(positions, model.encoder.positions.weight)
        assert not positions.requires_grad
