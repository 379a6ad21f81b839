"""Averaged weights: hand-computed, evaluated and saved in place of the last ones, resumed."""

import pytest
import torch

from recbole_edt.trainer import checkpoint
from recbole_edt.trainer.averaging import AveragedWeights


def test_average_hand_computed() -> None:
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    average = AveragedWeights([weight], decay=0.1)
    for value in (11.0, 22.0):
        weight.data.fill_(value)
        average.update()
    # the first step keeps 1/11 of the start, the second 0.1: the smaller of 2/12 and the decay
    assert average.values[0].item() == pytest.approx(0.1 * 10 + 0.9 * 22)


def test_best_checkpoint_holds_averages_and_the_last_one_both(run) -> None:
    trained = run("LLMEDTPretrain", epochs=1, weight_average=0.9).fit().trainer
    best = checkpoint.load(trained.saved_model_file)["state_dict"]
    last = checkpoint.load(trained.last_file)
    names = [name for name, p in trained.model.named_parameters() if p.requires_grad]
    assert len(last["average"]["values"]) == len(names)
    assert all(
        torch.equal(best[name], value)
        for name, value in zip(names, last["average"]["values"], strict=True)
    )
    assert any(not torch.equal(best[name], last["state_dict"][name]) for name in names)


def test_steps_of_an_optimizer_of_ones_own_are_averaged(run) -> None:
    now = run("LLMEDTPretrain", epochs=2, weight_average=0.9)
    start = {name: value.clone() for name, value in now.trainer.model.named_parameters()}
    now.trainer.optimizer = torch.optim.SGD(now.trainer.model.parameters(), lr=1.0)
    trained = now.fit().trainer
    assert trained.average.steps == 2 * len(now.train)
    best = checkpoint.load(trained.saved_model_file)["state_dict"]
    assert any(not torch.equal(best[name], value) for name, value in start.items())


def test_a_method_that_builds_another_optimizer_serves_both_stages(run, caplog) -> None:
    def built(params=None, learning_rate=0.1):
        params = now.trainer.model.parameters() if params is None else params
        return torch.optim.SGD(params, lr=learning_rate)

    now = run(weight_average=0.9)
    now.trainer._build_optimizer = built
    now.trainer.optimizer = built()
    with caplog.at_level("WARNING"):
        now.fit()
    assert type(now.trainer.optimizer) is torch.optim.SGD
    assert now.trainer.average.steps == 2 * len(now.train)  # of stage 2
    assert "the one that was set on the trainer serves stage 1" in caplog.text


@pytest.mark.parametrize("follows", [False, True])
def test_a_scheduler_that_does_not_follow_to_stage_2_is_told_of(run, caplog, follows) -> None:
    trainer = (now := run(epochs=1, finetune_epochs=1)).trainer
    make = trainer._build_optimizer

    def built(**kwargs):
        optimizer = make(**kwargs)
        trainer.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        return optimizer

    trainer.optimizer = built()
    if follows:
        trainer._build_optimizer = built
    with caplog.at_level("WARNING"):
        now.fit()
    assert (trainer.scheduler.optimizer is trainer.optimizer) == follows
    assert ("which scheduler of the trainer does not follow" in caplog.text) != follows


def test_the_averages_of_a_model_with_two_optimizers_are_of_all_its_parameters(run) -> None:
    trained = run("RecVAE", epochs=1, weight_average=0.9).fit().trainer
    assert len(trained._optimizers()) == 2
    averaged = {parameter.data_ptr() for parameter in trained.average.parameters}
    assert averaged == {p.data_ptr() for p in trained.model.parameters() if p.requires_grad}
