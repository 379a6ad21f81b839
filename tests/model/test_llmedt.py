"""LLM-EDT, equation by equation, against slow references (`slow_reference.py`)."""

import numpy as np
import pytest
import torch
from slow_reference import (
    CONFIG,
    MAX_LENGTH,
    N_ITEMS,
    NO_PROFILE,
    SEQUENCES,
    TinyShop,
    adapted,
    alignment,
    array,
    build,
    check_scores,
    domain_of,
    evaluation_batch,
    hardest_term,
    item_vector,
    items_of,
    masked_targets,
    prefixes,
    run_alone,
    shake,
    softmax_term,
    summed_vector,
    training_batch,
    two_layers,
    user_vector,
)

from recbole_edt.data.dataloader import SequenceLoader
from recbole_edt.errors import ConfigError
from recbole_edt.model import llmedt
from recbole_edt.model.llmedt import LLMEDT, LLMEDTFinetune, LLMEDTPretrain

CAUSAL = ("sasrec", "gru4rec")
ALL = (*CAUSAL, "bert4rec")
USERS = tuple(SEQUENCES)
TERMS = {"bpr": hardest_term, "softmax": softmax_term}
LOSSES = pytest.mark.parametrize("loss", TERMS)


class PaperConfig(dict):
    """A configuration that knows its model, as RecBole's does."""

    model_class = LLMEDT


@pytest.fixture(autouse=True)
def _hardest_negative(monkeypatch) -> None:
    """Draw the negative of the highest score, so that losses hold no chance."""
    monkeypatch.setattr(llmedt, "NEGATIVE_TEMPERATURE", 1e-6)


def make(model_class=LLMEDT, seed: int = 0, finetune=False, **options):
    """Make a model; in stage 2 its adapters have moved."""
    model = build(model_class, seed, **{"loss": "softmax", **options})
    if finetune:
        model.begin_finetuning()
        torch.manual_seed(seed + 100)
        shake(model.domain_adapters)
    return model.eval()


def loss_of(model, batch) -> float:
    """Loss without dropout, whichever stage."""
    return model.eval().calculate_loss(batch).item()


@pytest.mark.parametrize("kind", ["text", "id", "both"])
def test_eq7_item_vectors(kind) -> None:
    model = make(LLMEDTPretrain, item_embedding=kind)
    expected = np.stack([item_vector(model, item) for item in range(N_ITEMS)])
    assert np.allclose(array(model.item_vectors()), expected)
    with torch.no_grad():
        assert np.allclose(array(model.item_vectors()), expected)
        assert model.item_vectors() is model.item_vectors()  # computed once per evaluation
        for parameter in model.item_embedding.parameters():
            parameter.add_(1.0)
        assert not np.allclose(array(model.eval().item_vectors()), expected)
    names = set(model.state_dict())
    assert ("item_embedding.adapter.inner.weight" in names) == (kind != "id")
    assert ("item_embedding.table.weight" in names) == (kind != "text")
    assert not names & {"item_embedding.text", "item_domain", "profiles"}


@LOSSES
@pytest.mark.parametrize("kind", ["text", "both"])
@pytest.mark.parametrize("name", CAUSAL)
def test_eq9_all_positions_at_once_equal_a_loop_over_prefixes(name, kind, loss) -> None:
    model = make(LLMEDTPretrain, backbone=name, item_embedding=kind, loss=loss)
    terms = [
        TERMS[loss](user_vector(model, history), model, target, SEQUENCES[user])
        for user, history, target in prefixes()
    ]
    assert len(terms) == 16
    for extra in (0, 1):
        assert loss_of(model, training_batch(extra=extra)) == pytest.approx(
            np.mean(terms), rel=1e-5
        )


@LOSSES
@pytest.mark.parametrize("finetune", [False, True])
def test_weights_of_targets_are_factors_of_their_terms(finetune, loss) -> None:
    """A batch in which all targets but one weigh nothing has that target's share of the loss."""
    model = make(finetune=finetune, loss=loss, recency_half_life=30.0)
    batch = training_batch()
    targets = batch["sequence"][:, 1:]
    shares = []
    for place in torch.nonzero(targets):
        batch["target_weights"] = torch.zeros(targets.shape)
        batch["target_weights"][tuple(place)] = 1.0
        shares.append(loss_of(model, batch))
    weights = torch.rand(len(shares))
    batch["target_weights"] = torch.zeros(targets.shape).masked_scatter(targets > 0, weights)
    assert loss_of(model, batch) == pytest.approx(float(weights @ torch.tensor(shares)), rel=1e-5)
    batch["target_weights"] = torch.ones(targets.shape)
    plain = make(finetune=finetune, loss=loss)
    assert loss_of(model, batch) == pytest.approx(loss_of(plain, training_batch()), rel=1e-6)


@LOSSES
def test_smoothed_labels_take_the_place_of_targets_in_the_loss_of_stage_1(loss) -> None:
    labels = torch.zeros(N_ITEMS, dtype=torch.int64)
    for own in map(items_of, (0, 1)):
        labels[own] = torch.tensor(own).roll(1)
    batch = training_batch()
    batch["targets"] = labels[batch["sequence"][:, 1:]]
    model = make(loss=loss, label_smoothing=0.1)
    terms = [
        TERMS[loss](user_vector(model, history), model, int(labels[target]), SEQUENCES[user])
        for user, history, target in prefixes()
    ]
    assert loss_of(model, batch) == pytest.approx(np.mean(terms), rel=1e-5)
    smooth, plain = (make(finetune=True, loss=loss, label_smoothing=x) for x in (0.1, 0.0))
    assert loss_of(smooth, batch) == loss_of(plain, training_batch())


@LOSSES
def test_eq9_bidirectional_equals_a_loop_over_masked_targets(loss) -> None:
    model = make(LLMEDTPretrain, backbone="bert4rec", loss=loss)
    batch, terms = training_batch(extra=1), []
    for user, shown, step, _ in masked_targets(model, batch):
        items, state = SEQUENCES[user], run_alone(model, shown)[step]
        terms.append(TERMS[loss](state, model, items[step], items))
    assert len(USERS) < len(terms) < 16
    torch.manual_seed(3)
    assert loss_of(model, batch) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_pretraining_on_all_sequences_adds_each_targets_domain_sub_sequence(name) -> None:
    model = make(backbone=name, pretrain_sequences="all")
    mixed, own = [], []
    for user, history, target in prefixes():
        for terms, seen in (
            (mixed, history),
            (own, [item for item in history if domain_of(item) == domain_of(target)]),
        ):
            if seen:
                state = user_vector(model, seen)
                terms.append(softmax_term(state, model, target, SEQUENCES[user]))
    assert 0 < len(own) < len(mixed)
    expected = np.mean(mixed) + np.mean(own)
    assert loss_of(model, training_batch()) == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_of_the_loader_are_the_whole_domain() -> None:
    """Long users are cut into windows: a target sees the window before it, no more."""
    shop = TinyShop(max_length=3)
    config = PaperConfig(CONFIG, loss="bpr", train_batch_size=2, MAX_ITEM_LIST_LENGTH=3)
    model = make(shop=shop, loss="bpr", MAX_ITEM_LIST_LENGTH=3)
    seen = []
    for batch in SequenceLoader(config, shop):
        terms = []
        for row, sequence in enumerate(batch["sequence"].tolist()):
            user, items = int(batch["user_id"][row]), [item for item in sequence if item]
            for step, target in enumerate(items[1:], start=1):
                seen.append((user, target))
                state = user_vector(model, items[:step])
                free = [
                    item
                    for item in range(1, N_ITEMS)
                    if domain_of(item) == domain_of(target) and item not in SEQUENCES[user]
                ]
                hardest = max(state @ item_vector(model, item) for item in free)
                terms.append(np.log1p(np.exp(hardest - state @ item_vector(model, target))))
        assert loss_of(model, batch) == pytest.approx(np.mean(terms), rel=1e-6)
    assert sorted(seen) == sorted((user, target) for user, _, target in prefixes())


@pytest.mark.parametrize("name", ALL)
def test_eq8_scores(name) -> None:
    model = make(backbone=name, item_embedding="both")
    check_scores(
        model, lambda history, item: user_vector(model, history) @ item_vector(model, item)
    )


@pytest.mark.parametrize("model_class", [LLMEDTFinetune, LLMEDT])
@pytest.mark.parametrize("adapter", ["paper", "residual"])
@pytest.mark.parametrize("name", ALL)
def test_eq11_scores_sum_both_terms_of_the_same_candidate(name, adapter, model_class) -> None:
    model = make(model_class, finetune=True, backbone=name, adapter=adapter)

    def score_of(history, item):
        return summed_vector(model, history, domain_of(item)) @ item_vector(model, item)

    check_scores(model, score_of)
    state = torch.randn(8, dtype=torch.float64)
    for domain in (0, 1):
        assert np.allclose(array(model.adapt(domain, state)), adapted(model, domain, array(state)))
    assert not torch.allclose(model.adapt(0, state), model.adapt(1, state))


@pytest.mark.parametrize("name", ALL)
def test_history_may_be_as_long_as_allowed(name) -> None:
    model = make(finetune=True, backbone=name)
    history = [6, 7, 8, 9, 10, 11, 12, 6]
    assert len(history) == MAX_LENGTH
    with torch.no_grad():
        scores = array(model.full_sort_predict(evaluation_batch([1], sequences={1: history})))[0]
    for item in (1, 9):
        expected = summed_vector(model, history, domain_of(item)) @ item_vector(model, item)
        assert scores[item] == pytest.approx(expected)


@LOSSES
@pytest.mark.parametrize("adapter", ["paper", "residual"])
@pytest.mark.parametrize("name", CAUSAL)
def test_eq12_equals_a_loop_over_targets(name, adapter, loss) -> None:
    model = make(finetune=True, backbone=name, adapter=adapter, loss=loss)
    terms = []
    for user, history, target in prefixes():
        domain = domain_of(target)
        if any(domain_of(item) == domain for item in history):
            # the first item of a sub-sequence is no target (j = 1 .. n^A + k)
            state = summed_vector(model, history, domain)
            terms.append(TERMS[loss](state, model, target, SEQUENCES[user]))
    assert len(terms) == 13
    for extra in (0, 1):
        assert loss_of(model, training_batch(extra=extra)) == pytest.approx(
            np.mean(terms), rel=1e-5
        )


def test_eq12_with_windows_keeps_the_whole_domain_history() -> None:
    """A target's domain sub-sequence reaches back behind its window, up to the longest length."""
    shop = TinyShop(max_length=3)
    model = make(finetune=True, shop=shop, MAX_ITEM_LIST_LENGTH=3)
    config = {**CONFIG, "loss": "softmax", "train_batch_size": 1, "n_negatives": 20}
    for batch in SequenceLoader(config, shop):
        user, sequence = int(batch["user_id"][0]), batch["sequence"][0].tolist()
        items = [item for item in sequence if item]
        end = SEQUENCES[user].index(items[-1])
        terms = []
        for step in range(1, len(items)):
            target = items[step]
            domain = domain_of(target)
            upto_end = [i for i in SEQUENCES[user][: end + 1] if domain_of(i) == domain][-4:]
            own = upto_end[: upto_end.index(target)]
            if own:
                state = user_vector(model, items[:step])
                state = state + adapted(model, domain, user_vector(model, own))
                scores = {
                    item: np.exp(state @ item_vector(model, item))
                    for item in range(1, N_ITEMS)
                    if domain_of(item) == domain and (item == target or item not in SEQUENCES[user])
                }
                terms.append(-np.log(scores[target] / sum(scores.values())))
        expected = np.mean(terms) if terms else 0.0
        assert loss_of(model, batch) == pytest.approx(expected, rel=1e-5)


def test_eq12_bidirectional_equals_a_loop_over_masked_targets() -> None:
    model = make(finetune=True, backbone="bert4rec")
    batch, terms = training_batch(extra=1), []
    for user, shown, step, own in masked_targets(model, batch):
        items, place = SEQUENCES[user], own.index(step)
        if place:
            own_state = run_alone(model, [shown[s] for s in own])[place]
            own_state = adapted(model, domain_of(items[step]), own_state)
            state = run_alone(model, shown)[step] + own_state
            terms.append(softmax_term(state, model, items[step], items))
    assert len(terms) > 3
    torch.manual_seed(3)
    assert loss_of(model, batch) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("loss_name", ["paper", "infonce"])
def test_eq14_adds_alpha_times_the_alignment_of_users_with_a_profile(loss_name) -> None:
    model = make(LLMEDTPretrain, align_weight=0.7, align_loss=loss_name)
    texts = TinyShop().user_embeddings().astype(np.float64)
    users, profiles = [], []
    for user, items in SEQUENCES.items():
        if user != NO_PROFILE:
            users.append(user_vector(model, items[:-1]))
            profiles.append(two_layers(model.profile_adapter, texts[user]))
    temperature = CONFIG["align_temperature"]
    align = alignment(np.stack(users), np.stack(profiles), temperature, loss_name == "infonce")
    batch = training_batch()
    with_alpha = loss_of(model, batch)
    model.align_weight = 0.1
    assert with_alpha - loss_of(model, batch) == pytest.approx(0.6 * align, rel=1e-5)


def aligned(batch, **options) -> tuple:
    """Make a model with eq. 13 alone in its loss, and tell its loss."""
    model = make(LLMEDTPretrain, align_weight=1.0, **options)
    plain = make(LLMEDTPretrain, align_weight=0.0, **options)
    plain.load_state_dict(model.state_dict(), strict=False)
    return model, loss_of(model, batch) - loss_of(plain, batch)


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])  # which has not seen the last target
def test_eq13_skips_windows_that_do_not_end_a_sequence(name) -> None:
    batch = training_batch()
    batch["last"] = torch.tensor([True, False, True, False, True])
    model, align = aligned(batch, backbone=name, mask_ratio=0.0)
    users = [user_vector(model, SEQUENCES[u][:-1]) for u in (1, 5)]
    texts = TinyShop().user_embeddings().astype(np.float64)
    profiles = [two_layers(model.profile_adapter, texts[u]) for u in (1, 5)]
    expected = alignment(np.stack(users), np.stack(profiles), CONFIG["align_temperature"])
    assert align == pytest.approx(expected, rel=1e-4)


@LOSSES
@pytest.mark.parametrize("name", ALL)
def test_users_without_a_domain_or_a_target_leave_no_nan_behind(name, loss) -> None:
    """Stage 1 on empty sub-sequences beside full ones, stage 2 where no target has a history."""
    first = make(backbone=name, loss=loss, pretrain_sequences="all").train()
    second = make(backbone=name, loss=loss, finetune=True).train()
    without = second.calculate_loss(training_batch((1, 2), sequences={1: [1, 6], 2: [8, 2]}))
    assert without.item() == 0.0
    for model, value in ((first, first.calculate_loss(training_batch((2, 3)))), (second, without)):
        value.backward()
        for n, parameter in model.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), n


def test_unknown_backbone() -> None:
    with pytest.raises(ConfigError, match="'none' is not one of sasrec, gru4rec, bert4rec"):
        LLMEDT({**CONFIG, "backbone": "none"}, TinyShop())
