"""From stage 1 to stage 2: checkpoints, what is frozen, and states that are computed once."""

import pytest
import torch
from slow_reference import CONFIG, TinyShop, build, shake, training_batch

from recbole_edt.data.dataloader import SequenceLoader
from recbole_edt.errors import CheckpointError
from recbole_edt.model import frozen, stages
from recbole_edt.model.llmedt import LLMEDT, LLMEDTFinetune, LLMEDTPretrain
from recbole_edt.trainer.checkpoint import load_state

ALL = pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "bert4rec"])
CAUSAL = pytest.mark.parametrize("backbone", ["sasrec", "gru4rec"])


def make(model_class, seed: int = 0, **options):
    return build(model_class, seed, **{"loss": "softmax", **options})


def finetuned(model_class=LLMEDT, **options):
    """Make a model in stage 2 whose adapters have moved, and its loader.

    Histories are longer than the longest window, so that users have several.
    """
    shop = TinyShop(max_length=3)
    options = {"MAX_ITEM_LIST_LENGTH": 3, "train_batch_size": 2, "loss": "softmax", **options}
    model = build(model_class, shop=shop, **options)
    model.begin_finetuning()
    shake(model.domain_adapters)
    return model.train(), SequenceLoader({**CONFIG, **options}, shop)


@pytest.mark.parametrize("adapter", ["paper", "residual"])
@ALL
def test_eq15_trains_adapters_alone(backbone, adapter) -> None:
    options = {"backbone": backbone, "adapter": adapter, "item_embedding": "both"}
    model = make(LLMEDT, mask_ratio=1.0, align_weight=0.5, **options)
    model.begin_finetuning()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.startswith("domain_adapters.")}
    before = {n: v.clone() for n, v in model.state_dict().items()}
    buffers = {n: v.clone() for n, v in model.named_buffers()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # all: what is frozen must not move
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model.calculate_loss(training_batch()).backward()
        optimizer.step()
    for n, parameter in model.named_parameters():
        assert torch.equal(parameter, before[n]) == (n not in trained), n
        assert (parameter.grad is None) == (n not in trained), n
    assert all(torch.equal(v, buffers[n]) for n, v in model.named_buffers())


def test_linear_adapters_start_as_projections_onto_the_axes_of_their_domains_items() -> None:
    torch.manual_seed(0)
    model = LLMEDT({**CONFIG, "item_embedding": "id"}, TinyShop())
    model.begin_finetuning()
    vectors = model.eval().item_vectors().detach()
    for domain in (0, 1):
        rows = vectors[model.item_domain == domain]
        axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:4]  # half of d
        states = torch.randn(5, vectors.shape[1])
        assert torch.allclose(model.adapt(domain, states), states @ axes.T @ axes, atol=1e-5)


def test_adapters_start_from_the_best_epoch_and_not_from_the_last_validated_one() -> None:
    best, model = make(LLMEDT, seed=1), make(LLMEDT, seed=2)
    with torch.no_grad():
        model.eval().item_vectors()  # as a validation does
    load_state(model, {"state_dict": best.state_dict()}, "best.pth")
    for each in (best, model):
        each.begin_finetuning()
    states = torch.randn(5, CONFIG["hidden_size"], dtype=torch.float64)
    for domain in (0, 1):
        assert torch.equal(model.adapt(domain, states), best.adapt(domain, states))


@pytest.mark.parametrize("pretrained_class", [LLMEDTPretrain, LLMEDT])
def test_finetune_model_takes_what_stage_1_learned(pretrained_class) -> None:
    options = {"item_embedding": "both", "adapter": "residual"}
    pretrained = make(pretrained_class, seed=1, align_weight=0.5, **options)
    model = make(LLMEDTFinetune, seed=2, align_weight=0.0, **options)  # it needs no profiles
    own = {n: v.clone() for n, v in model.domain_adapters.state_dict().items()}
    model.load_pretrained(pretrained.state_dict())
    for n, value in pretrained.state_dict().items():
        if not n.startswith(("domain_", "profile_adapter.")):
            assert torch.equal(model.state_dict()[n], value), n
    for n, value in model.domain_adapters.state_dict().items():
        assert torch.equal(value, own[n])
    assert not model.encoder.positions.weight.requires_grad


def test_adapters_start_from_the_items_of_the_checkpoint() -> None:
    pretrained, model = make(LLMEDT, seed=1), make(LLMEDTFinetune, seed=2)
    model.load_pretrained(pretrained.state_dict())
    pretrained.begin_finetuning()
    states = torch.randn(5, CONFIG["hidden_size"], dtype=torch.float64)
    for domain in (0, 1):
        adapted = model.adapt(domain, states)
        assert adapted.any()
        assert torch.allclose(adapted, pretrained.adapt(domain, states))


@pytest.mark.parametrize(
    ("theirs", "mine", "said"),
    [
        ({"hidden_size": 4}, {}, "other sizes"),
        ({}, {"item_embedding": "both"}, "lacks parts"),
        ({"n_layers": 3}, {}, "parts that this one lacks"),
        ({"backbone": "gru4rec"}, {}, "lacks parts"),
    ],
)
def test_checkpoint_of_another_configuration_is_refused_in_one_line(theirs, mine, said) -> None:
    state = make(LLMEDTPretrain, **theirs).state_dict()
    with pytest.raises(CheckpointError, match=said) as caught:
        make(LLMEDTFinetune, **mine).load_pretrained(state)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_state(make(LLMEDTPretrain, **mine), {"state_dict": state}, "run.pth")


def gradients(model, loss):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("model_class", [LLMEDT, LLMEDTFinetune])
@pytest.mark.parametrize("adapter", ["paper", "residual"])
@CAUSAL
def test_losses_and_gradients_are_those_computed_batch_by_batch(
    backbone, adapter, model_class, monkeypatch
) -> None:
    monkeypatch.setattr(frozen, "_BLOCK", 3)
    model, loader = finetuned(model_class, backbone=backbone, adapter=adapter)
    for epoch in range(2):
        loader.set_epoch(epoch)
        known = model.loss_over(loader)  # as the trainer asks for it, anew in each epoch
        for batch in loader:
            mine, slow = known(batch), model.calculate_loss(batch)
            torch.testing.assert_close(mine, slow, rtol=1e-5, atol=1e-8)
            pairs = zip(gradients(model, mine), gradients(model, slow), strict=True)
            for one, other in pairs:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert model._cache is not None
    assert not any("cache" in name for name in model.state_dict())


def test_states_are_computed_anew_when_the_frozen_weights_change() -> None:
    model, loader = finetuned()
    loss_of = model.loss_over(loader)
    batch = next(iter(loader))
    before = loss_of(batch).item()
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})
    after = loss_of(batch).item()
    assert after != before
    assert after == pytest.approx(model.calculate_loss(batch).item(), rel=1e-6)


def test_each_loader_has_its_own_states() -> None:
    """Windows of two loaders are other ones under the same numbers."""
    model, loader = finetuned()
    other = SequenceLoader({**CONFIG, "loss": "softmax"}, TinyShop(max_length=2))
    assert len(loader.starts) != len(other.starts)
    for source in (loader, other, loader):
        batch = next(iter(source))
        known = model.loss_over(source)(batch).item()
        assert known == pytest.approx(model.calculate_loss(batch).item(), rel=1e-6)


def test_what_would_take_more_than_the_limit_is_computed_per_batch(monkeypatch) -> None:
    model, loader = finetuned()
    held = frozen.FrozenStates(model, loader)
    size = frozen.FrozenStates.size(model, loader)
    assert size == sum(t.numel() * 8 for t in (held.lookup.vectors, held.u, held.h))  # float64
    batch = next(iter(loader))
    for limit, cached in ((size, True), (size - 1, False)):
        monkeypatch.setattr(stages, "CACHE_BYTES", limit)
        model._cache_of = None
        loss = model.loss_over(loader)(batch).item()
        assert loss == pytest.approx(model.calculate_loss(batch).item(), rel=1e-6)
        assert (model._cache is not None) == cached


def test_bidirectional_backbones_hide_other_targets_each_time_and_cache_nothing() -> None:
    model, loader = finetuned(backbone="bert4rec")
    batch = next(iter(loader))
    torch.manual_seed(5)
    mine = model.loss_over(loader)(batch).item()
    torch.manual_seed(5)
    assert mine == model.calculate_loss(batch).item()
    assert model._cache is None


def test_a_subclass_changes_the_loss_of_both_stages() -> None:
    class Mine(LLMEDT):
        def calculate_loss(self, interaction):
            return super().calculate_loss(interaction) + 5

    (mine, loader), (theirs, _) = finetuned(Mine), finetuned()
    batch = next(iter(loader))
    mine.load_state_dict(theirs.state_dict())
    ours = mine.loss_over(loader)(batch).item()
    assert ours == pytest.approx(theirs.loss_over(loader)(batch).item() + 5)
