"""LLM-ESR, part by part, against slow references and numbers worked out by hand."""

import common
import numpy as np
import pytest
import torch
from common import ALL, CAUSAL, USERS, loss_of
from slow_reference import (
    NO_PROFILE,
    SEQUENCES,
    SIZE,
    TEXT_SIZE,
    TinyShop,
    array,
    check_scores,
    layer_norm,
    prefixes,
    states_of,
    training_batch,
    two_layers,
)

from recbole_edt.model.baselines.llmesr import LLMESR, similar_users

PRINCIPAL = common.config_of(LLMESR, collaborative_start="principal")


def make(shop: TinyShop | None = None, **options) -> LLMESR:
    return common.make(LLMESR, shop, **{"fusion": "paper", "distill_weight": 0.0, **options})


def item_views(model, item: int) -> tuple[np.ndarray, np.ndarray]:
    semantic = two_layers(model.semantic.adapter, array(model.semantic.text)[item])
    return semantic, array(model.collaborative.weight)[item]


def item_vector(model, item: int) -> np.ndarray:
    return np.concatenate(item_views(model, item))


def cross_attention(module, asking, asked, step: int, causal: bool) -> np.ndarray:
    """softmax(Q K^T / sqrt(d)) V of one step, head by head."""
    seen = asked[: step + 1] if causal else asked
    both = array(module.key_value.weight)
    mixed = []
    for head in np.split(np.arange(SIZE), module.n_heads):
        query = array(module.query.weight)[head] @ asking[step]
        weights = np.array([query @ (both[head] @ other) for other in seen])
        weights = np.exp(weights / np.sqrt(len(head)))
        values = np.stack([both[SIZE + head] @ other for other in seen])
        mixed.append((weights / weights.sum()) @ values)
    return array(module.out.weight) @ np.concatenate(mixed) + array(module.out.bias)


def fused_views(model, items: list[int | None]) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder gets of each view, [n, d]; None stands for the mask."""
    encoder = model.encoder
    views: tuple[list, list] = ([], [])
    norms = (encoder.semantic_norm, encoder.collaborative_norm)
    for step, item in enumerate(items):
        mask = encoder.backbone.mask_vector
        pair = (array(mask), array(mask)) if item is None else item_views(model, item)
        place = array(encoder.positions.weight)[step]
        for view, norm, vector in zip(views, norms, pair, strict=True):
            view.append(layer_norm(norm, vector + place))
    semantic, collaborative = views
    out: tuple[list, list] = ([], [])
    for step in range(len(items)):
        pair = (
            cross_attention(encoder.to_semantic, collaborative, semantic, step, encoder.causal),
            cross_attention(
                encoder.to_collaborative, semantic, collaborative, step, encoder.causal
            ),
        )
        for view, own, fused in zip(out, views, pair, strict=True):
            view.append(fused + own[step] if encoder.residual else fused)
    return np.stack(out[0]), np.stack(out[1])


def run_alone(model, items: list[int | None]) -> np.ndarray:
    """States of one unpadded sequence, [n, 2 d]: the one encoder on each view by itself."""
    return np.concatenate([states_of(model.encoder, v) for v in fused_views(model, items)], axis=1)


def user_vector(model, history: list[int]) -> np.ndarray:
    if model.encoder.causal:
        return run_alone(model, history)[-1]
    return run_alone(model, [*history, None])[-1]


def term(kind: str, state, model, user: int, target: int) -> float:
    return common.loss_term(kind, lambda item: state @ item_vector(model, item), user, target)


@pytest.mark.parametrize("size", [4, 8])
def test_collaborative_view_starts_as_the_pca_of_text(size) -> None:
    torch.manual_seed(0)
    model = LLMESR({**PRINCIPAL, "hidden_size": size}, TinyShop())
    weight = array(model.collaborative.weight)
    n = min(size, TEXT_SIZE)
    text = TinyShop().item_embeddings()[1:].astype(np.float64)
    centred = text - text.mean(0)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    scores = (left * spread)[:, :n]
    assert np.allclose(np.abs(weight[1:, :n]), np.abs(scores), atol=1e-5)
    assert np.allclose(weight[1:, :n] @ weight[1:, :n].T, scores @ scores.T, atol=1e-5)
    assert (np.abs(weight[1:, n:]) < 0.1).all()  # what text has no component for: near zero
    assert (weight[1:, n:] != 0).all()


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("name", CAUSAL)
def test_ranking_loss_equals_a_loop_over_prefixes(name, loss) -> None:
    model = make(backbone=name, loss=loss)
    terms = [
        term(loss, user_vector(model, history), model, user, target)
        for user, history, target in prefixes()
    ]
    assert loss_of(model, training_batch()) == pytest.approx(np.mean(terms), rel=1e-5)
    assert loss_of(model, training_batch(extra=2)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_bidirectional_ranking_loss_hides_its_targets() -> None:
    model = make(backbone="bert4rec")
    model.encoder.mask_ratio = 0.0  # the last item alone is hidden
    terms = [
        term("bpr", user_vector(model, items[:-1]), model, user, items[-1])
        for user, items in SEQUENCES.items()
    ]
    assert loss_of(model, training_batch()) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("fusion", ["paper", "residual"])
@pytest.mark.parametrize("name", ALL)
def test_scores_are_the_sum_of_both_views_fused_both_ways(name, fusion) -> None:
    model = make(backbone=name, fusion=fusion)

    def score_of(history, item):
        user, (semantic, collaborative) = user_vector(model, history), item_views(model, item)
        return user[:SIZE] @ semantic + user[SIZE:] @ collaborative

    check_scores(model, score_of)


def test_similar_users_by_hand() -> None:
    """Angles of 0, 10, 40, 90 and 190 degrees; lengths play no part."""
    angles = np.radians([0, 0, 10, 40, 90, 190])
    lengths = np.array([0, 3, 1, 7, 1, 2])
    embeddings = (np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None]).astype("f4")
    everyone = np.ones(6, dtype=bool)
    assert similar_users(embeddings, everyone, 2).tolist() == [
        [0, 0], [2, 3], [1, 3], [2, 1], [3, 2], [4, 3],
    ]  # fmt: skip
    without = everyone.copy()
    without[3] = False
    assert similar_users(embeddings, without, 2).tolist() == [
        [0, 0], [2, 4], [1, 4], [0, 0], [2, 1], [4, 1],
    ]  # fmt: skip
    assert similar_users(embeddings, without, 5)[1].tolist() == [2, 4, 5, 0, 0]
    alone = np.arange(6) == 2
    assert not similar_users(embeddings, alone, 2).any()


@pytest.mark.parametrize("profiles", [True, False])
def test_users_are_compared_by_profile_or_else_by_the_text_of_their_items(profiles) -> None:
    shop = TinyShop(profiles=profiles)
    model = make(shop, distill_weight=0.5)
    if profiles:
        vectors = shop.user_embeddings()
    else:
        text = shop.item_embeddings()
        vectors = {user: text[items].mean(0) for user, items in SEQUENCES.items()}
    known = [user for user in SEQUENCES if not (profiles and user == NO_PROFILE)]

    for user in known:
        cosine = {
            other: vectors[user] @ vectors[other] / np.linalg.norm(vectors[other])
            for other in known
            if other != user
        }
        assert model.similar[user].tolist() == sorted(cosine, key=lambda o: -cosine[o])[:2]
    assert not model.similar[[user for user in range(6) if user not in known]].any()


def slow_distillation(model, users) -> float:
    """Mean squared difference to the mean state of the similar users, user by user."""
    terms = []
    for user in users:
        similar = [other for other in model.similar[user].tolist() if other]
        if similar:
            states = [user_vector(model, SEQUENCES[other][:-1]) for other in similar]
            student = user_vector(model, SEQUENCES[user][:-1])
            terms.append(np.mean((student - np.mean(states, axis=0)) ** 2))
    return float(np.mean(terms))


@pytest.mark.parametrize("name", ALL)
def test_distillation_is_added_with_its_weight(name) -> None:
    model, plain = make(backbone=name, distill_weight=0.7), make(backbone=name)
    model.encoder.mask_ratio = plain.encoder.mask_ratio = 0.0
    plain.load_state_dict(model.state_dict())
    batch = training_batch()
    expected = loss_of(plain, batch) + 0.7 * slow_distillation(model, USERS)
    assert loss_of(model, batch) == pytest.approx(expected, rel=1e-6)


def test_nobody_similar_means_no_distillation() -> None:
    model, plain = make(distill_weight=1.0), make()
    plain.load_state_dict(model.state_dict())
    batch = training_batch((NO_PROFILE,))
    assert loss_of(model, batch) == loss_of(plain, batch)


def test_teachers_are_cut_to_the_longest_history() -> None:
    shop = TinyShop(max_length=3)
    model = make(shop, distill_weight=1.0, MAX_ITEM_LIST_LENGTH=3)
    for user, items in SEQUENCES.items():
        kept = [item for item in model.histories[user].tolist() if item]
        assert kept == items[:-1][-3:]


def test_teachers_are_without_dropout_gradient_and_effect_on_the_mode(monkeypatch) -> None:
    monkeypatch.setattr("recbole_edt.model.baselines.llmesr._TEACHERS", 2)
    model = make(distill_weight=1.0, item_dropout=0.5)
    users = torch.tensor(USERS)
    expected, taught = model.teachers(users)
    model.train()
    means, _ = model.teachers(users)
    assert torch.allclose(means, expected)
    assert not means.requires_grad
    assert model.encoder.training
    assert model.encoder.backbone.training
    assert taught.tolist() == [user != NO_PROFILE for user in USERS]
    assert not means[USERS.index(NO_PROFILE)].any()
