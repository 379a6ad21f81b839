"""From sequences to user states: targets, who sees them, and items blanked in training."""

import numpy as np
import pytest
import torch
from slow_reference import SEQUENCES, array, build, evaluation_batch, run_alone, training_batch

from recbole_edt.model.llmedt import LLMEDT, LLMEDTPretrain

CAUSAL = ("sasrec", "gru4rec")


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_backbones_predict_every_item_but_the_first(name) -> None:
    model = build(LLMEDTPretrain, backbone=name)
    sequence = torch.tensor([[4, 2, 3, 0], [5, 1, 0, 0]])
    assert model.encoder.choose_targets(sequence).int().tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]


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


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_states_before_a_target_have_not_seen_it(name) -> None:
    model = build(LLMEDTPretrain, backbone=name)
    sequence = torch.tensor([[4, 2, 8, 9, 1]])
    masked = model.encoder.choose_targets(sequence)
    before = model.encoder.before_targets(model.item_embedding, sequence, masked)
    for step in range(1, 5):
        other = sequence.clone()
        other[0, step:] = 7
        after = model.encoder.before_targets(model.item_embedding, other, masked)
        assert torch.allclose(before[:, :step], after[:, :step], atol=1e-12)


def test_bidirectional_scores_come_from_a_mask_behind_the_history() -> None:
    model = build(LLMEDTPretrain, backbone="bert4rec", loss="softmax")
    state, _ = model.user_vectors(evaluation_batch())
    for row, history in enumerate(SEQUENCES.values()):
        expected = run_alone(model, [*history, None], model.encoder.positions)[-1]
        assert np.allclose(array(state)[row], expected)
    model.train().calculate_loss(training_batch()).backward()
    assert model.encoder.backbone.mask_vector.grad.any()  # it is learned


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
