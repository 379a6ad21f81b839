"""Ensembles: members that learn as they do alone, and share scores."""

import copy
import pickle

import pytest
import torch

from recbole_edt.data.dataloader import WINDOW
from recbole_edt.errors import CheckpointError
from recbole_edt.model import ensemble
from recbole_edt.model.llmedt import LLMEDT, LLMEDTFinetune
from recbole_edt.registry import find_model, plugin_models

NO_CHANCE = {"dropout": 0.0, "item_dropout": 0.0}


class Doubled(LLMEDT):
    """A user's own model."""

    def calculate_loss(self, interaction):
        return 2 * super().calculate_loss(interaction)


def gradients(model) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", sorted({*plugin_models()} - {"LLMEDTFinetune"}))
def test_scores_are_means_of_the_members_scores_in_every_model(run, name):
    done = run(name, epochs=1, ensemble_size=2).fit()
    model = done.model.eval()
    assert type(model).__name__ == name
    one, other = model.members
    assert all(type(member) is plugin_models()[name] for member in model.members)
    (interaction, *_), *_ = list(done.test)
    candidates = torch.arange(1, 11).expand(len(interaction), 10)
    with torch.no_grad():
        for method, given in (("full_sort_predict", ()), ("candidate_scores", (candidates,))):
            scores = [getattr(m, method)(interaction, *given)[:, 1:] for m in model.members]
            assert not torch.allclose(scores[0], scores[1], atol=1e-3)
            mean = torch.stack(scores).mean(0)
            found = getattr(model, method)(interaction, *given)[:, 1:]
            assert torch.allclose(found, mean, rtol=1e-4, atol=1e-5)
    own = [n for n, _ in one.named_parameters()]
    everywhere = {f"members.{place}.{n}" for place in range(2) for n in own}
    assert {n for n, _ in model.named_parameters()} == everywhere
    assert not other.training


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("name", ["LLMEDT", f"{__name__}:Doubled"])
def test_each_member_learns_as_it_does_alone(run, name, stage):
    made = run(name, ensemble_size=2, **NO_CHANCE)
    model = made.model
    assert isinstance(model, find_model(name))
    alone = [copy.deepcopy(member) for member in model.members]
    if stage == 2:
        model.begin_finetuning()
        assert model.finetuning
    loss_of = model.train().loss_over(made.train)
    batches = [next(iter(made.train))]
    loss = loss_of(batches[0])
    loss.backward()
    again = copy.copy(made.train)
    again.set_epoch(again.epoch + ensemble._FURTHER)
    batches.append(next(iter(again)))
    assert not torch.equal(batches[0][WINDOW], batches[1][WINDOW])
    total = 0.0
    for place, (member, batch) in enumerate(zip(alone, batches, strict=True)):
        if stage == 2:
            member.begin_finetuning()
        own = member.train().calculate_loss(batch)
        own.backward()
        total += own.item()
        expected, found = gradients(member), gradients(model.members[place])
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_members_see_every_window_once_in_orders_of_their_own(run, monkeypatch):
    seen = [[], []]
    made = run(ensemble_size=2, train_batch_size=7)
    for member, windows in zip(made.model.members, seen, strict=True):

        def noted(batch, loss=member.calculate_loss, windows=windows):
            windows += batch[WINDOW].tolist()
            return loss(batch)

        monkeypatch.setattr(member, "calculate_loss", noted)
    loss_of = made.model.loss_over(made.train)
    for batch in made.train:
        loss_of(batch)
    first, second = seen
    assert first != second
    assert sorted(first) == sorted(second) == list(range(len(made.train.users)))


def test_one_model_is_what_it_was(run):
    model = run(epochs=1).model
    assert type(model) is LLMEDT
    assert not any(name.startswith("members") for name in model.state_dict())


def test_stage_2_starts_from_an_ensemble_of_the_same_size(run):
    def finetuned(size: int, path: str):
        return run("LLMEDTFinetune", pretrained_path=path, ensemble_size=size).fit().model

    pretrained = [run("LLMEDTPretrain", epochs=1, ensemble_size=size).fit() for size in (1, 2)]
    one, two = (each.trainer.saved_model_file for each in pretrained)
    state, model = torch.load(two)["state_dict"], finetuned(2, two)
    assert isinstance(model, LLMEDTFinetune) and model.finetuning
    for place in (0, 1):
        name = f"members.{place}.encoder.positions.weight"
        assert torch.equal(model.state_dict()[name], state[name])
    for size, path in ((1, two), (2, one)):
        with pytest.raises(CheckpointError, match="of this one"):
            finetuned(size, path)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_is_copied_whole(run, copied):
    model = run(ensemble_size=2).model
    twin = copied(model)
    assert type(twin) is type(model)
    assert twin.state_dict().keys() == model.state_dict().keys()
    for name, value in twin.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
        assert value.data_ptr() != model.state_dict()[name].data_ptr() or not value.numel()
