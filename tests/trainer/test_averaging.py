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
