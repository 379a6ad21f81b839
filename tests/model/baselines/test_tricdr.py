"""Tri-CDR, part by part, against hand-computed numbers and slow loops over users and targets."""

import common
import numpy as np
import pytest
import torch
from common import USERS, loss_of, own_items
from slow_reference import (
    CONFIG,
    MAX_LENGTH,
    SEQUENCES,
    SIZE,
    TinyShop,
    array,
    check_scores,
    domain_of,
    linear,
    prefixes,
    states_of,
    training_batch,
)

from recbole_edt.data.dataloader import SequenceLoader
from recbole_edt.model.baselines.tricdr import TriCDR

VARIANTS = pytest.mark.parametrize(
    ("item_tables", "score"), [("separate", "cosine"), ("shared", "dot"), ("shared", "cosine")]
)
OWN = {
    "item_tables": "separate",
    "score": "cosine",
    "coarse_weight": 0.0,
    "fine_weight": 0.0,
    "fine_margin": 1.5,
}


def pretraining(shop: TinyShop | None = None, **options) -> TriCDR:
    """Make a model in its first stage."""
    return common.make(TriCDR, shop, **{**OWN, **options})


def joint(shop: TinyShop | None = None, **options) -> TriCDR:
    """Make a model in joint training."""
    model = pretraining(shop, **options)
    model.begin_finetuning()
    return model


def encoded(model: TriCDR, which: int, items: list[int]) -> np.ndarray:
    """States of one unpadded sequence: which = 0 or 1 a domain's, 2 the mixed one."""
    if not items:
        return np.zeros((0, SIZE))
    encoder = [*model.domain_encoders, model.mixed_encoder][which]
    table = [model.domain_items, model.domain_items, model.mixed_items][which]
    return states_of(encoder, array(table.weight)[items])


def prelu(layer, inputs: np.ndarray) -> np.ndarray:
    return np.where(inputs > 0, inputs, array(layer.weight) * inputs)


def pooled(attention, query, context, states) -> np.ndarray:
    """TCA over one sequence, one state at a time."""
    if not len(states):
        return np.zeros(SIZE)
    scores = []
    for key in states:
        together = np.concatenate([key, query, key * query, query - key, context])
        hidden = linear(attention.compare, together)
        first, second, third, fourth = attention.rest
        scores.append(linear(fourth, prelu(third, linear(second, prelu(first, hidden))))[0])
    weights = np.exp(np.array(scores)) / np.exp(scores).sum()
    return sum(w * state for w, state in zip(weights, states, strict=True))


def own(history: list[int], domain: int, limit: int = MAX_LENGTH) -> list[int]:
    return own_items(history, domain)[-limit:]


def views(model: TriCDR, mixed: list[int], by_domain: list[list[int]], target: int):
    """Pooled mixed, source and target sequence before one target."""
    states = [encoded(model, which, items) for which, items in enumerate([*by_domain, mixed])]
    query = states[target][-1] if len(states[target]) else np.zeros(SIZE)
    context = states[2].mean(0)
    attention = model.attentions[target]
    return [pooled(attention, query, context, states[w]) for w in (2, 1 - target, target)]


def unit(model: TriCDR, vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector) if model.cosine else vector


def scaled(model: TriCDR, vector: np.ndarray) -> np.ndarray:
    return unit(model, vector) * (5.0 if model.cosine else 1.0)


def fused(model: TriCDR, mixed: list[int], by_domain: list[list[int]], target: int) -> np.ndarray:
    first, _, second = model.fusions[target]
    hidden = linear(first, np.concatenate(views(model, mixed, by_domain, target)))
    return scaled(model, linear(second, np.where(hidden > 0, hidden, 0.01 * hidden)))


def fused_after(model: TriCDR, history: list[int], target: int) -> np.ndarray:
    return fused(model, history, [own(history, 0), own(history, 1)], target)


def row_of(model: TriCDR, item: int, mixed: bool = False) -> np.ndarray:
    table = model.mixed_items if mixed else model.domain_items
    return unit(model, array(table.weight)[item])


def loss_term(model, state, user: int, target: int, mixed: bool = False) -> float:
    def scored(item):
        return state @ row_of(model, item, mixed)

    return common.loss_term(model.loss_name, scored, user, target)


def joint_reference(model) -> float:
    return np.mean([
        loss_term(model, fused_after(model, history, domain_of(target)), user, target)
        for user, history, target in prefixes()
    ])  # fmt: skip


def nt_xent_reference(first, second, temperature: float) -> float:
    """Vector by vector, negative by negative."""
    everything = [v / np.linalg.norm(v) for v in (*first, *second)]
    n, total = len(first), 0.0
    for i, vector in enumerate(everything):
        others = [np.exp(vector @ v / temperature) for j, v in enumerate(everything) if j != i]
        positive = np.exp(vector @ everything[(i + n) % (2 * n)] / temperature)
        total -= np.log(positive / sum(others))
    return total / (2 * n)


def contrast_reference(model: TriCDR, target: int, users) -> float:
    """TCL of one direction: each user at the last target of the domain."""
    contrast = model.contrasts[target]
    projected = ([], [], [])
    for user in users:
        items = SEQUENCES[user]
        last = max(i for i, item in enumerate(items) if domain_of(item) == target)
        history = items[:last]
        pooled_views = views(model, history, [own(history, 0), own(history, 1)], target)
        for out, projection, view in zip(
            projected, contrast.projections, pooled_views, strict=True
        ):
            out.append(linear(projection[2], np.maximum(linear(projection[0], view), 0)))
    mixed, source, own_view = projected
    pairs = ((mixed, source), (mixed, own_view), (source, own_view))
    coarse = np.mean([nt_xent_reference(*pair, 0.1) for pair in pairs])
    fine = np.mean([
        max(np.linalg.norm(s - m) - np.linalg.norm(s - t) + OWN["fine_margin"], 0)
        for m, s, t in zip(mixed, source, own_view, strict=True)
    ])  # fmt: skip
    return model.contrasts[target].coarse_weight * coarse + contrast.fine_weight * fine


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@VARIANTS
def test_joint_loss_equals_a_loop_over_prefixes(item_tables, score, loss) -> None:
    model = joint(item_tables=item_tables, score=score, loss=loss)
    expected = joint_reference(model)
    assert loss_of(model, training_batch()) == pytest.approx(expected, rel=1e-5)
    assert loss_of(model, training_batch(extra=1)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@VARIANTS
def test_pretraining_loss_equals_a_loop_over_prefixes(item_tables, score, loss) -> None:
    model = pretraining(item_tables=item_tables, score=score, loss=loss)
    mixed, domain = [], []
    for user, history, target in prefixes():
        state = scaled(model, encoded(model, 2, history)[-1])
        mixed.append(loss_term(model, state, user, target, mixed=True))
        before = own(history, domain_of(target))
        if before:
            state = scaled(model, encoded(model, domain_of(target), before)[-1])
            domain.append(loss_term(model, state, user, target))
    assert (len(mixed), len(domain)) == (16, 13)
    expected = np.mean(mixed) + np.mean(domain)
    assert loss_of(model, training_batch()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("last", [True, False])
def test_joint_loss_adds_the_contrast_of_both_directions(last) -> None:
    """Users 2 and 3 have one domain only; a window that ends no sequence is not contrasted."""
    model = joint(coarse_weight=0.7, fine_weight=0.4)
    batch = training_batch()
    users = [1, 4, 5]
    if not last:
        batch["last"] = torch.tensor([user != 5 for user in USERS])
        users = [1, 4]
    expected = joint_reference(model)
    expected += sum(contrast_reference(model, target, users) for target in (0, 1))
    assert loss_of(model, batch) == pytest.approx(expected, rel=1e-5)


def test_users_without_all_three_sequences_before_the_target_are_not_contrasted() -> None:
    """User 1's only b before the last b is none at all: direction b leaves that user out."""
    sequences = {**SEQUENCES, 1: [1, 2, 6, 3]}
    model = joint(coarse_weight=1.0)
    heard = {}
    for target in (0, 1):
        contrast = model.contrasts[target]
        contrast.register_forward_hook(
            lambda _, views, __, target=target: heard.update({target: views})
        )
    model.calculate_loss(training_batch((1, 4), sequences=sequences))
    assert [len(view) for view in heard[0]] == [2, 2, 2]
    assert [len(view) for view in heard[1]] == [1, 1, 1]


def test_windows_of_the_real_loader_give_the_same_loss_as_a_loop() -> None:
    """Sub-sequences reach back behind a long user's window, up to the window's last target."""
    shop = TinyShop(max_length=3)
    model = joint(shop, MAX_ITEM_LIST_LENGTH=3)
    longer = 0
    for batch in SequenceLoader({**CONFIG, "train_batch_size": 2}, shop):
        terms = []
        for row, sequence in enumerate(batch["sequence"].tolist()):
            user, items = int(batch["user_id"][row]), [item for item in sequence if item]
            end = SEQUENCES[user].index(items[-1])
            for step in range(1, len(items)):
                target = items[step]
                by_domain = []
                for domain in (0, 1):
                    upto_end = own(SEQUENCES[user][: end + 1], domain, limit=4)
                    later = [i for i in items[step:] if domain_of(i) == domain]
                    by_domain.append(upto_end[: len(upto_end) - len(later)])
                longer += sum(map(len, by_domain)) > step
                state = fused(model, items[:step], by_domain, domain_of(target))
                negative = int(batch["negatives"][row, step - 1])
                gap = state @ (row_of(model, target) - row_of(model, negative))
                terms.append(np.log1p(np.exp(-gap)))
        assert loss_of(model, batch) == pytest.approx(np.mean(terms), rel=1e-6)
    assert longer  # some target saw items of before its window


@VARIANTS
def test_scores_after_joint_training(item_tables, score) -> None:
    model = joint(item_tables=item_tables, score=score)

    def score_of(history, item):
        return fused_after(model, history, domain_of(item)) @ row_of(model, item)

    check_scores(model, score_of)


@VARIANTS
def test_scores_of_pretraining_sum_mixed_and_domain_encoder(item_tables, score) -> None:
    model = pretraining(item_tables=item_tables, score=score)

    def score_of(history, item):
        state = scaled(model, encoded(model, 2, history)[-1])
        out = state @ row_of(model, item, mixed=True)
        before = own(history, domain_of(item))
        if before:
            state = scaled(model, encoded(model, domain_of(item), before)[-1])
            out = out + state @ row_of(model, item)
        return out

    check_scores(model, score_of)
