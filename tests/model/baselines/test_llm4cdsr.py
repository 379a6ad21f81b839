"""LLM4CDSR, part by part, against slow references: one user, one position, one pair at a time."""

from functools import partial

import common
import numpy as np
import pytest
import torch
from common import ALL, CAUSAL, loss_of, loss_term, own_items
from slow_reference import (
    CONFIG,
    NO_PROFILE,
    SEQUENCES,
    TinyShop,
    after,
    alignment,
    array,
    check_scores,
    domain_of,
    item_vector,
    masked_targets,
    prefixes,
    run_alone,
    thread,
    training_batch,
    two_layers,
    user_vector,
)

from recbole_edt.model.baselines.llm4cdsr import LLM4CDSR

OF_BOTH = (1, 4, 5)  # users with items of both domains
TAU = CONFIG["align_temperature"]


def make(shop: TinyShop | None = None, **options) -> LLM4CDSR:
    return common.make(LLM4CDSR, shop, **{"regularisation_weight": 0.0, **options})


def local_vector(model, item: int) -> np.ndarray:
    return array(model.local_embedding.weight)[item]


def score(model, history: list[int], item: int) -> float:
    """Eq. 3: the global score, plus the local one where the item's domain has history."""
    out = user_vector(model, history) @ item_vector(model, item)
    domain = domain_of(item)
    own = own_items(history, domain)
    if own:
        state = after(model.local_encoders[domain], partial(local_vector, model), own)
        out += state @ local_vector(model, item)
    return float(out)


def term(model, user: int, history: list[int], target: int) -> float:
    """One target's part of eq. 4, or of the sampled softmax."""

    return loss_term(model.loss_name, lambda item: score(model, history, item), user, target)


@pytest.mark.parametrize("name", ALL)
def test_scores_are_the_sum_of_the_global_and_the_local_thread(name) -> None:
    model = make(backbone=name)
    check_scores(model, lambda h, item: score(model, h, item))


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("first_items", [True, False])
@pytest.mark.parametrize("name", CAUSAL)
def test_eq4_all_positions_at_once_equal_a_loop_over_prefixes(name, first_items, loss) -> None:
    model = make(backbone=name, loss=loss, first_items=first_items)
    terms = [
        term(model, user, history, target)
        for user, history, target in prefixes()
        if first_items or any(domain_of(i) == domain_of(target) for i in history)
    ]
    assert len(terms) == (16 if first_items else 13)
    assert loss_of(model, training_batch()) == pytest.approx(np.mean(terms), rel=1e-5)
    assert loss_of(model, training_batch(extra=1)) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("first_items", [True, False])
def test_eq4_bidirectional_equals_a_loop_over_masked_targets(first_items, loss) -> None:
    model = make(backbone="bert4rec", loss=loss, first_items=first_items)
    batch, terms = training_batch(), []
    for user, shown, step, own in masked_targets(model, batch):
        target, place = SEQUENCES[user][step], own.index(step)
        if place or first_items:
            state = run_alone(model, shown)[step]
            local = np.zeros(8)
            if place:
                encoder = model.local_encoders[domain_of(target)]
                vector_of = partial(local_vector, model)
                local = thread(encoder, vector_of, [shown[s] for s in own])[place]

            def scored(item, state=state, local=local):
                return state @ item_vector(model, item) + local @ local_vector(model, item)

            terms.append(loss_term(loss, scored, user, target))
    assert len(terms) > 3
    torch.manual_seed(3)
    assert loss_of(model, batch) == pytest.approx(np.mean(terms), rel=1e-5)


PAIRS = {1: [1, 6], 2: [8, 2], 3: [4, 5, 3], 4: [9, 4]}  # user 3 has nothing of domain 1


def test_eq6_draws_one_item_per_domain_of_each_user_evenly() -> None:
    model = make()
    batch = training_batch(extra=1)
    heard = []

    def lookup(items):
        heard.append(items)
        return torch.ones(len(items), 1)

    torch.manual_seed(0)
    for _ in range(600):
        model.item_regularisation(batch, lookup)
    for domain in (0, 1):
        drawn = torch.stack(heard[domain::2]).numpy()  # [draws, users]
        assert drawn.shape == (600, len(OF_BOTH))
        for column, user in enumerate(OF_BOTH):
            own = [item for item in SEQUENCES[user] if domain_of(item) == domain]
            for item in own:
                share = (drawn[:, column] == item).mean()
                assert share == pytest.approx(1 / len(own), abs=0.06)


def test_eq8_adds_alpha_times_eq6_and_beta_times_eq7() -> None:
    model = make(regularisation_weight=0.7, align_weight=0.4)
    texts = TinyShop().user_embeddings().astype(np.float64)
    users = [user for user in PAIRS if user != NO_PROFILE]
    states = np.stack([user_vector(model, PAIRS[user][:-1]) for user in users])
    profiles = np.stack([two_layers(model.profile_adapter, texts[user]) for user in users])
    align = alignment(states, profiles, TAU, infonce=True)
    first = np.stack([item_vector(model, item) for item in (1, 2, 4)])
    second = np.stack([item_vector(model, item) for item in (6, 8, 9)])
    contrast = alignment(first, second, TAU, infonce=True)
    batch = training_batch(tuple(PAIRS), sequences=PAIRS)
    plain = make()
    plain.load_state_dict(model.state_dict(), strict=False)
    expected = loss_of(plain, batch) + 0.7 * contrast + 0.4 * align
    assert loss_of(model, batch) == pytest.approx(expected, rel=1e-5)


def test_without_profiles_the_user_term_is_skipped_and_said_once(caplog) -> None:
    with caplog.at_level("INFO"):
        model = make(TinyShop(profiles=False), align_weight=0.4)
    plain = make()
    plain.load_state_dict(model.state_dict())
    assert loss_of(model, training_batch()) == loss_of(plain, training_batch())
    assert [r.getMessage() for r in caplog.records] == [
        "no profile embeddings: users are not aligned with profiles"
    ]


def test_local_embeddings_start_as_a_pca_of_each_domains_raw_items() -> None:
    tables = []
    for generated_text in (50.0, 1.0):
        shop = TinyShop(generated_text=generated_text, text_size=10)
        torch.manual_seed(0)
        tables.append(array(LLM4CDSR(common.config_of(LLM4CDSR), shop).local_embedding.weight))
    table, text = tables[1], shop.item_embeddings()
    for items in (range(1, 6), range(6, 12)):
        centred = text[items] - text[items].mean(0)
        # a PCA keeps inner products as well as so many directions can
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        kept = (left * values)[:, :8]
        mine = table[items]
        ratio = (mine @ mine.T) / (kept @ kept.T)
        assert np.allclose(ratio, ratio[0, 0], rtol=1e-2)
        assert np.sqrt((mine**2).mean()) == pytest.approx(0.02, rel=0.25)
    assert np.array_equal(tables[0][1:-1], table[1:-1])
