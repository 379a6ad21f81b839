"""From sequences to user states: targets, who sees them, and items blanked in training."""

import pytest
import torch
from slow_reference import build, training_batch

from recbole_edt.model.llmedt import LLMEDT, LLMEDTPretrain

CAUSAL = ("sasrec", "gru4rec")


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_bidirectional_hides_the_last_item_and_a_share_of_the_rest(ratio) -> None:
    model = build(LLMEDTPretrain, backbone="bert4rec", mask_ratio=ratio)
    torch.manual_seed(0)
    sequence = torch.ones(400, 52, dtype=torch.int64)
    sequence[:, 50:] = 0
    chosen = model.encoder.choose_targets(sequence)
    assert not chosen[:, 0].any() and not chosen[:, 50:].any()
    assert chosen[:, 49].all()
    assert chosen[:, 1:49].float().mean().item() == pytest.approx(ratio, abs=0.015)


def heard_by(backbone) -> list[torch.Tensor]:
    """Item vectors [B, L, d] that a backbone will be called with, packed or padded."""
    heard = []
    backbone.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0].detach()))
    if hasattr(backbone, "on_packed"):
        on_packed = backbone.on_packed

        def spy(vectors, positions, packing, valid):
            heard.append(packing.pad(vectors.detach()))
            return on_packed(vectors, positions, packing, valid)

        backbone.on_packed = spy
    return heard


@pytest.mark.parametrize("name", CAUSAL)
def test_item_dropout_blanks_whole_items_of_the_input_in_stage_1_alone(name) -> None:
    model = build(LLMEDT, backbone=name, dropout=0.0, item_dropout=0.4, loss="softmax")
    heard = heard_by(model.encoder.backbone)
    batch = training_batch()
    before_target = batch["sequence"][:, 1:] > 0
    whole = model.item_embedding(batch["sequence"][:, :-1]).detach()[before_target]
    model.train()
    for _ in range(30):
        model.calculate_loss(batch)
    blank = torch.stack([(vectors[before_target] == 0).all(-1) for vectors in heard])
    for vectors, gone in zip(heard, blank, strict=True):
        assert torch.allclose(vectors[before_target][~gone], whole[~gone])
    assert blank.float().mean().item() == pytest.approx(0.4, abs=0.1)
    for stage_2 in (False, True):  # evaluation, and training of stage 2
        if stage_2:
            model.begin_finetuning()
        model.train(stage_2)
        heard.clear()
        model.calculate_loss(batch)
        assert torch.allclose(heard[0][before_target], whole)
