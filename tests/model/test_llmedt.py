"""LLM-EDT, equation by equation, against slow references (`slow_reference.py`)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
    domain_of,
    evaluation_batch,
    item_vector,
    log_sigmoid_gap,
    negative_of,
    prefixes,
    run_alone,
    softmax_term,
    summed_vector,
    training_batch,
    two_layers,
    user_vector,
)

from recbole_edt.data.dataloader import SequenceLoader
from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.errors import CheckpointError, ConfigError
from recbole_edt.model.llmedt import LLMEDT, LLMEDTFinetune, LLMEDTPretrain
from recbole_edt.model.text import Canonical, ItemPairs, MappedText
from recbole_edt.trainer.checkpoint import load_state

CAUSAL = ("sasrec", "gru4rec")
ALL = (*CAUSAL, "bert4rec")
USERS = tuple(SEQUENCES)


def finetuned(seed: int = 0, model_class=LLMEDT, **options):
    """Make a model in stage 2 whose adapters and domain positions have moved."""
    model = build(model_class, seed, **options)
    model.begin_finetuning()
    torch.manual_seed(seed + 100)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("domain_"):
                parameter.add_(torch.randn(parameter.shape, dtype=torch.float64) * 0.3)
    return model.eval()


def next_item_loss(model, batch) -> float:
    """Loss without dropout, whichever stage."""
    return model.eval().calculate_loss(batch).item()


# -- eq. 7: item embedding ------------------------------------------------------------------------


def test_a_principal_start_is_taken_from_raw_items_alone() -> None:
    class Generated(TinyShop):
        def __init__(self, text: float) -> None:
            super().__init__()
            self.text = text
            self.item_generated[-1] = True

        def item_embeddings(self) -> np.ndarray:
            out = super().item_embeddings()
            out[-1] = self.text
            return out

    config = {**CONFIG, "text_start": "principal"}
    one, other = (LLMEDTPretrain(config, Generated(text)).item_embedding for text in (1.0, 90.0))
    assert torch.equal(one.adapter.inner.weight, other.adapter.inner.weight)
    assert torch.equal(one.text[:-1], other.text[:-1])
    assert not one.text[0].any()
    assert torch.allclose(one.text[1:-1].mean(0), torch.zeros(one.text.shape[1]), atol=1e-6)
    assert torch.allclose(one.text[1:-1].square().mean(), torch.tensor(1.0))


def test_id_vectors_start_as_the_pca_of_raw_items_text() -> None:
    shop = TinyShop()
    shop.item_generated[-1] = True
    model = LLMEDTPretrain({**CONFIG, "item_embedding": "both", "id_start": "principal"}, shop)
    table = array(model.item_embedding.table.weight)
    text = shop.item_embeddings()
    centred = text - text[1:-1].mean(0)
    # directions by the singular value decomposition; each row's products are the same whatever
    # signs the directions have
    directions = np.linalg.svd(centred[1:-1], full_matrices=False)[2].T
    components = centred @ directions
    components[0] = 0
    components /= np.sqrt((components[1:-1] ** 2).sum(1).mean())
    width = text.shape[1]
    assert np.allclose(table[:, :width] @ table[:, :width].T, components @ components.T, atol=1e-5)
    assert np.isclose((table[1:-1, :width] ** 2).sum(1).mean(), 1.0)
    assert (np.abs(table[1:, width:]) < 0.2).all()  # more entries than directions: as they were


def test_id_vectors_start_as_whitened_text_of_raw_items() -> None:
    shop = TinyShop()
    shop.item_generated[-1] = True
    model = LLMEDTPretrain({**CONFIG, "item_embedding": "both", "id_start": "whitened"}, shop)
    table = array(model.item_embedding.table.weight)
    text = shop.item_embeddings()
    centred = text - text[1:-1].mean(0)
    _, spreads, directions = np.linalg.svd(centred[1:-1], full_matrices=False)
    kept = spreads > 1e-3 * np.sqrt((spreads**2).mean())
    white = centred @ directions[kept].T / spreads[kept]
    white = white[1:] / np.linalg.norm(white[1:], axis=1, keepdims=True)
    ours = table[1:, : kept.sum()]
    assert np.allclose(ours @ ours.T, white @ white.T, atol=1e-3)


def test_canonical_starts_are_told_by_training_rows_alone() -> None:
    """Ids beside the text, and text alone with its adapter, start as the same coordinates."""
    shop = TinyShop()
    raw = torch.from_numpy(shop.item_domain >= 0)
    text = torch.from_numpy(shop.item_embeddings())
    pairs = ItemPairs(shop.train_sequences, shop.item_domain)
    assert pairs.weights.nnz
    size = CONFIG["hidden_size"]
    rows = Canonical(text, raw, size, pairs)(text[1:])
    both = {**CONFIG, "item_embedding": "both", "id_start": "canonical"}
    table = LLMEDTPretrain(both, shop).item_embedding.table.weight[1:, : rows.shape[1]]
    length = rows.square().sum(1).mean().sqrt()
    assert torch.allclose(table, rows[:, :size] / length, atol=1e-5)
    alone = {**CONFIG, "item_embedding": "text", "text_start": "canonical"}
    embedding = LLMEDTPretrain(alone, shop).item_embedding
    assert torch.allclose(embedding.text[1:], rows, atol=1e-6)
    width = min(size, text.shape[1] // 2)  # the bottleneck's
    assert torch.allclose(embedding(torch.arange(1, N_ITEMS))[:, :width], 16 * rows[:, :width])


@pytest.mark.parametrize("text_start", ["random", "principal", "whitened", "canonical"])
def test_text_and_profiles_too_large_for_memory_change_nothing(text_start) -> None:
    class LargeShop(TinyShop):
        def item_table(self):
            return EmbeddingTable(self.item_embeddings(), limit=0)

        def user_table(self):
            return EmbeddingTable(self.user_embeddings(), limit=0)

    options = {"item_embedding": "both", "text_start": text_start, "align_weight": 0.5}
    id_start = "canonical" if text_start == "canonical" else "principal"
    models = []
    for shop in (TinyShop(), LargeShop()):
        torch.manual_seed(3)
        models.append(LLMEDTPretrain({**CONFIG, "id_start": id_start, **options}, shop).eval())
    assert isinstance(models[1].item_embedding.text, MappedText)
    assert isinstance(models[1].profiles, MappedText)
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    losses, vectors = zip(
        *((m.calculate_loss(training_batch()), m.item_vectors()) for m in models), strict=True
    )
    assert torch.allclose(losses[0], losses[1])
    assert torch.allclose(vectors[0], vectors[1], atol=1e-6)


def test_without_text_id_vectors_know_nothing_of_it() -> None:
    class NoText(TinyShop):
        def item_embeddings(self):
            raise AssertionError("ids alone ask for no text")

    config = {**CONFIG, "item_embedding": "id", "id_start": "principal"}
    table = array(LLMEDTPretrain(config, NoText()).item_embedding.table.weight)
    assert np.abs(table).max() < 0.2


@pytest.mark.parametrize("kind", ["text", "id", "both"])
def test_eq7_item_vectors(kind) -> None:
    model = build(LLMEDTPretrain, item_embedding=kind)
    expected = np.stack([item_vector(model, item) for item in range(N_ITEMS)])
    assert np.allclose(array(model.item_vectors()), expected)
    with torch.no_grad():
        assert np.allclose(array(model.item_vectors()), expected)
        assert model.item_vectors() is model.item_vectors()  # computed once per evaluation
    has_text, has_table = kind != "id", kind != "text"
    names = set(model.state_dict())
    assert ("item_embedding.adapter.inner.weight" in names) == has_text
    assert ("item_embedding.table.weight" in names) == has_table
    assert not names & {"item_embedding.text", "item_domain", "profiles"}


def test_cached_item_vectors_are_forgotten_when_the_mode_is_set() -> None:
    model = build(LLMEDTPretrain)
    with torch.no_grad():
        before = model.item_vectors()
        for parameter in model.item_embedding.parameters():
            parameter.add_(1.0)
        model.eval()
        assert not torch.allclose(model.item_vectors(), before)


# -- eqs. 8, 9: pre-training ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "both"])
@pytest.mark.parametrize("name", CAUSAL)
def test_eq9_all_positions_at_once_equal_a_loop_over_prefixes(name, kind) -> None:
    model = build(LLMEDTPretrain, backbone=name, item_embedding=kind)
    terms = [
        log_sigmoid_gap(
            user_vector(model, history, model.encoder.positions),
            model,
            target,
            negative_of(user, target),
        )
        for user, history, target in prefixes()
    ]
    assert len(terms) == 16
    assert next_item_loss(model, training_batch()) == pytest.approx(np.mean(terms), rel=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_eq9_softmax_equals_a_loop_over_prefixes(name) -> None:
    model = build(LLMEDTPretrain, backbone=name, loss="softmax")
    terms = [
        softmax_term(
            user_vector(model, history, model.encoder.positions), model, target, SEQUENCES[user]
        )
        for user, history, target in prefixes()
    ]
    assert next_item_loss(model, training_batch()) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_eq9_bidirectional_equals_a_loop_over_masked_targets(loss) -> None:
    model = build(LLMEDTPretrain, backbone="bert4rec", loss=loss)
    batch = training_batch()
    torch.manual_seed(3)
    chosen = model.encoder.choose_targets(batch["sequence"])
    terms = []
    for row, items in enumerate(SEQUENCES.values()):
        hidden = [bool(chosen[row, step]) for step in range(len(items))]
        seen = [None if h else item for item, h in zip(items, hidden, strict=True)]
        states = run_alone(model, seen, model.encoder.positions)
        for step in np.flatnonzero(hidden):
            user, target = USERS[row], items[step]
            if loss == "bpr":
                negative = negative_of(user, target)
                terms.append(log_sigmoid_gap(states[step], model, target, negative))
            else:
                terms.append(softmax_term(states[step], model, target, items))
    assert len(USERS) < len(terms) < 16
    torch.manual_seed(3)
    assert next_item_loss(model, batch) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_pretraining_on_all_sequences_adds_each_targets_domain_sub_sequence(name) -> None:
    model = build(LLMEDT, backbone=name, pretrain_sequences="all")
    mixed, own = [], []
    for user, history, target in prefixes():
        negative = negative_of(user, target)
        state = user_vector(model, history, model.encoder.positions)
        mixed.append(log_sigmoid_gap(state, model, target, negative))
        alike = [item for item in history if domain_of(item) == domain_of(target)]
        if alike:
            state = user_vector(model, alike, model.encoder.positions)
            own.append(log_sigmoid_gap(state, model, target, negative))
    assert 0 < len(own) < len(mixed)
    expected = np.mean(mixed) + np.mean(own)
    assert next_item_loss(model, training_batch()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("finetune", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_loss_depends_on_neither_padding_nor_batch_composition(name, finetune, loss) -> None:
    make = finetuned if finetune else (lambda **options: build(LLMEDT, **options))
    # mask_ratio 0: BERT4Rec hides the last item alone, not a random choice
    model = make(backbone=name, loss=loss, mask_ratio=0.0)
    whole = next_item_loss(model, training_batch())
    assert next_item_loss(model, training_batch(extra=1)) == pytest.approx(whole, rel=1e-6)
    total = count = 0
    for user in USERS:
        n = 1 if name == "bert4rec" else len(SEQUENCES[user]) - 1
        if finetune:
            n = sum(
                any(domain_of(i) == domain_of(t) for i in history)
                for u, history, t in prefixes()
                if u == user and (name != "bert4rec" or len(history) == len(SEQUENCES[u]) - 1)
            )
        total += n * next_item_loss(model, training_batch([user]))
        count += n
    assert total / count == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_real_loader_and_its_windows_give_the_same_loss_as_a_loop(name) -> None:
    """Long users are cut into windows: a target sees the window before it, no more."""
    shop = TinyShop(max_length=3)
    model = build(LLMEDT, shop=shop, backbone=name, MAX_ITEM_LIST_LENGTH=3)
    loader = SequenceLoader({**CONFIG, "train_batch_size": 2}, shop)
    seen = []
    for batch in loader:
        terms = []
        for row, sequence in enumerate(batch["sequence"].tolist()):
            user, items = int(batch["user_id"][row]), [item for item in sequence if item]
            for step in range(1, len(items)):
                seen.append((user, items[step]))
                state = user_vector(model, items[:step], model.encoder.positions)
                negative = int(batch["negatives"][row, step - 1])
                terms.append(log_sigmoid_gap(state, model, items[step], negative))
        assert next_item_loss(model, batch) == pytest.approx(np.mean(terms), rel=1e-6)
    assert sorted(seen) == sorted((user, target) for user, _, target in prefixes())


# -- eqs. 13, 14: profiles ------------------------------------------------------------------------


@pytest.mark.parametrize("loss_name", ["paper", "infonce"])
def test_eq14_adds_alpha_times_the_alignment_of_users_with_a_profile(loss_name) -> None:
    model = build(LLMEDTPretrain, align_weight=0.7, align_loss=loss_name)
    texts = TinyShop().user_embeddings().astype(np.float64)
    users, profiles = [], []
    for user, items in SEQUENCES.items():
        if user != NO_PROFILE:
            users.append(user_vector(model, items[:-1], model.encoder.positions))
            profiles.append(two_layers(model.profile_adapter, texts[user]))
    temperature = CONFIG["align_temperature"]
    align = alignment(np.stack(users), np.stack(profiles), temperature, loss_name == "infonce")
    batch = training_batch()
    pre = np.mean([
        log_sigmoid_gap(user_vector(model, h, model.encoder.positions), model, t, negative_of(u, t))
        for u, h, t in prefixes()
    ])  # fmt: skip
    assert next_item_loss(model, batch) == pytest.approx(pre + 0.7 * align, rel=1e-5)
    model.align_weight = 0.1
    assert next_item_loss(model, batch) == pytest.approx(pre + 0.1 * align, rel=1e-5)


def test_eq13_skips_windows_that_do_not_end_a_sequence() -> None:
    model = build(LLMEDTPretrain, align_weight=1.0)
    batch = training_batch()
    batch["last"] = torch.tensor([True, False, True, False, True])
    plain = build(LLMEDTPretrain, align_weight=0.0)
    plain.load_state_dict(model.state_dict(), strict=False)
    align = next_item_loss(model, batch) - next_item_loss(plain, batch)
    users = [user_vector(model, SEQUENCES[u][:-1], model.encoder.positions) for u in (1, 5)]
    texts = TinyShop().user_embeddings().astype(np.float64)
    profiles = [two_layers(model.profile_adapter, texts[u]) for u in (1, 5)]
    expected = alignment(np.stack(users), np.stack(profiles), CONFIG["align_temperature"])
    assert align == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("users", [(1, NO_PROFILE), (NO_PROFILE,)])
def test_eq13_is_zero_with_fewer_than_two_profiles(users) -> None:
    model = build(LLMEDTPretrain, align_weight=1.0)
    plain = build(LLMEDTPretrain, align_weight=0.0)
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = training_batch(users)
    assert next_item_loss(model, batch) == next_item_loss(plain, batch)


@pytest.mark.parametrize(
    ("weight", "profiles", "has"), [(0.5, True, True), (0.0, True, False), (0.5, False, False)]
)
def test_profile_adapter_exists_where_profiles_are_used(weight, profiles, has) -> None:
    model = build(LLMEDTPretrain, shop=TinyShop(profiles=profiles), align_weight=weight)
    assert (model.profile_adapter is not None) == has
    assert any(name.startswith("profile_adapter") for name in model.state_dict()) == has
    assert np.isfinite(next_item_loss(model, training_batch()))


def test_bidirectional_user_vector_has_not_seen_the_last_target() -> None:
    model = build(LLMEDTPretrain, backbone="bert4rec", align_weight=1.0, mask_ratio=0.0)
    heard = []
    model.profile_loss = lambda users, vectors: heard.append(vectors) or vectors.sum() * 0
    next_item_loss(model, training_batch())
    expected = [
        user_vector(model, items[:-1], model.encoder.positions) for items in SEQUENCES.values()
    ]
    assert np.allclose(array(heard[0]), np.stack(expected))


# -- eqs. 10, 11: scores --------------------------------------------------------------------------


def check_scores(model, vector_of) -> None:
    """Hold all three ways to score against a candidate-by-candidate loop."""
    rows = evaluation_batch()
    with torch.no_grad():
        everything = array(model.full_sort_predict(rows))
        for row, history in enumerate(SEQUENCES.values()):
            for item in range(1, N_ITEMS):
                expected = vector_of(history, domain_of(item)) @ item_vector(model, item)
                assert everything[row, item] == pytest.approx(expected, rel=1e-8, abs=1e-10)
        for item in range(1, N_ITEMS):
            one = {**rows, "item_id": torch.full((len(USERS),), item)}
            assert np.allclose(array(model.predict(one)), everything[:, item])
        mixed = {**rows, "item_id": torch.tensor([3, 9, 6, 1, 12])}
        assert np.allclose(array(model.predict(mixed)), everything[range(5), mixed["item_id"]])
        candidates = torch.tensor([[1, 4, 3], [6, 12, 7], [12, 11, 6], [5, 5, 1], [8, 9, 10]])
        some = array(model.candidate_scores(rows, candidates))
        assert np.allclose(some, np.take_along_axis(everything, candidates.numpy(), 1))


@pytest.mark.parametrize("kind", ["text", "both"])
@pytest.mark.parametrize("name", ALL)
def test_eq8_scores(name, kind) -> None:
    model = build(LLMEDT, backbone=name, item_embedding=kind)
    check_scores(model, lambda history, _: user_vector(model, history, model.encoder.positions))


@pytest.mark.parametrize("model_class", [LLMEDTFinetune, LLMEDT])
@pytest.mark.parametrize("adapter", ["paper", "residual"])
@pytest.mark.parametrize("name", ALL)
def test_eq11_scores_sum_both_terms_of_the_same_candidate(name, adapter, model_class) -> None:
    model = finetuned(model_class=model_class, backbone=name, adapter=adapter)
    check_scores(model, lambda history, domain: summed_vector(model, history, domain))


@pytest.mark.parametrize("adapter", ["paper", "residual"])
def test_eq10_adapters_are_one_per_domain(adapter) -> None:
    model = finetuned(adapter=adapter)
    state = torch.randn(8, dtype=torch.float64)
    for domain in (0, 1):
        assert np.allclose(array(model.adapt(domain, state)), adapted(model, domain, array(state)))
    assert not torch.allclose(model.adapt(0, state), model.adapt(1, state))


@pytest.mark.parametrize("adapter", ["paper", "residual"])
@pytest.mark.parametrize("name", ALL)
def test_without_history_in_a_domain_the_global_term_remains_exactly(name, adapter) -> None:
    model = finetuned(backbone=name, adapter=adapter)
    rows = evaluation_batch()
    with torch.no_grad():
        summed = model.user_vectors(rows)
        alone = LLMEDTPretrain.user_vectors(model, rows)
    for user, domain in ((2, 0), (3, 1)):  # who have nothing of that domain
        row = USERS.index(user)
        assert torch.equal(summed[domain][row], alone[domain][row])
        assert not torch.allclose(summed[1 - domain][row], alone[1 - domain][row])


@pytest.mark.parametrize("finetune", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_scores_depend_on_neither_padding_nor_batch_composition(name, finetune) -> None:
    model = finetuned(backbone=name) if finetune else build(LLMEDT, backbone=name)
    with torch.no_grad():
        whole = model.full_sort_predict(evaluation_batch())
        padded = model.full_sort_predict(evaluation_batch(extra=1))
        assert torch.allclose(whole, padded, atol=1e-10)
        for row, user in enumerate(USERS):
            alone = model.full_sort_predict(evaluation_batch([user]))
            assert torch.allclose(alone[0], whole[row], atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_history_may_be_as_long_as_allowed(name) -> None:
    model = finetuned(backbone=name)
    history = [6, 7, 8, 9, 10, 11, 12, 6]
    assert len(history) == MAX_LENGTH
    full, length = torch.tensor([history]), torch.tensor([MAX_LENGTH])
    rows = {
        "item_id_list": full, "item_length": length,
        "item_id_list_0": torch.zeros_like(full), "item_length_0": length * 0,
        "item_id_list_1": full, "item_length_1": length,
    }  # fmt: skip
    with torch.no_grad():
        scores = array(model.full_sort_predict(rows))[0]
    for item in (1, 9):
        expected = summed_vector(model, history, domain_of(item)) @ item_vector(model, item)
        assert scores[item] == pytest.approx(expected)


@pytest.mark.parametrize("name", ALL)
def test_padding_ids_behind_the_history_are_never_read(name) -> None:
    model = finetuned(backbone=name)
    rows = evaluation_batch(extra=1)
    noisy = dict(rows)
    for key in ("", "_0", "_1"):
        items, lengths = rows[f"item_id_list{key}"], rows[f"item_length{key}"]
        if name == "bert4rec":  # where only zeros are padding, the mask takes the first of them
            behind = torch.arange(items.shape[1]) == lengths[:, None]
        else:
            behind = torch.arange(items.shape[1]) >= lengths[:, None]
        noisy[f"item_id_list{key}"] = items.masked_fill(behind, 4)
    with torch.no_grad():
        expected = model.full_sort_predict(rows)
        assert torch.allclose(model.full_sort_predict(noisy), expected, atol=1e-10)


# -- eq. 12: fine-tuning loss ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("adapter", ["paper", "residual"])
@pytest.mark.parametrize("name", CAUSAL)
def test_eq12_equals_a_loop_over_targets(name, adapter, loss) -> None:
    model = finetuned(backbone=name, adapter=adapter, loss=loss)
    terms = []
    for user, history, target in prefixes():
        domain = domain_of(target)
        if not any(domain_of(item) == domain for item in history):
            continue  # the first item of a sub-sequence is no target (j = 1 .. n^A + k)
        state = summed_vector(model, history, domain)
        if loss == "bpr":
            terms.append(log_sigmoid_gap(state, model, target, negative_of(user, target)))
        else:
            terms.append(softmax_term(state, model, target, SEQUENCES[user]))
    assert len(terms) == 13
    assert next_item_loss(model, training_batch()) == pytest.approx(np.mean(terms), rel=1e-5)


def test_eq12_with_windows_keeps_the_whole_domain_history() -> None:
    """A target's domain sub-sequence reaches back behind its window, up to the longest length."""
    shop = TinyShop(max_length=3)
    model = finetuned(shop=shop, MAX_ITEM_LIST_LENGTH=3)
    for batch in SequenceLoader({**CONFIG, "train_batch_size": 1}, shop):
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
                state = user_vector(model, items[:step], model.encoder.positions)
                domain_state = user_vector(model, own, model.domain_positions[domain])
                state = state + adapted(model, domain, domain_state)
                negative = int(batch["negatives"][0, step - 1])
                terms.append(log_sigmoid_gap(state, model, target, negative))
        expected = np.mean(terms) if terms else 0.0
        assert next_item_loss(model, batch) == pytest.approx(expected, rel=1e-6)


def test_eq12_bidirectional_equals_a_loop_over_masked_targets() -> None:
    model = finetuned(backbone="bert4rec")
    batch = training_batch()
    torch.manual_seed(3)
    chosen = model.encoder.choose_targets(batch["sequence"])
    terms = []
    for row, (user, items) in enumerate(SEQUENCES.items()):
        hidden = chosen[row].tolist()
        shown = [None if h else i for i, h in zip(items, hidden, strict=False)]
        states = run_alone(model, shown, model.encoder.positions)
        for step, target in enumerate(items):
            domain = domain_of(target)
            own = [s for s, item in enumerate(items) if domain_of(item) == domain]
            place = own.index(step)
            if not hidden[step] or place == 0:
                continue
            own_states = run_alone(model, [shown[s] for s in own], model.domain_positions[domain])
            state = states[step] + adapted(model, domain, own_states[place])
            terms.append(log_sigmoid_gap(state, model, target, negative_of(user, target)))
    assert len(terms) > 3
    torch.manual_seed(3)
    assert next_item_loss(model, batch) == pytest.approx(np.mean(terms), rel=1e-6)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("name", ALL)
def test_eq12_without_any_target_is_zero_and_harmless(name, loss) -> None:
    model = finetuned(backbone=name, loss=loss)
    sequences = {1: [1, 6], 2: [8, 2]}  # every target is the first of its domain
    batch = training_batch((1, 2), sequences=sequences)
    value = model.train().calculate_loss(batch)
    assert value.item() == 0.0
    value.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


# -- eq. 15: what fine-tuning trains --------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["paper", "residual"])
@pytest.mark.parametrize("name", ALL)
def test_eq15_trains_adapters_and_domain_positions_alone(name, adapter) -> None:
    options = {"backbone": name, "adapter": adapter, "item_embedding": "both", "align_weight": 0.5}
    model = build(LLMEDT, mask_ratio=1.0, **options)
    model.begin_finetuning()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        n for n, _ in model.named_parameters()
        if n.startswith(("domain_adapters.", "domain_positions."))
    }  # fmt: skip
    before = {n: v.clone() for n, v in model.state_dict().items()}
    buffers = {n: v.clone() for n, v in model.named_buffers()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # all: what is frozen must not move
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model.calculate_loss(training_batch()).backward()
        optimizer.step()
    for n, parameter in model.named_parameters():
        if n in trained:
            assert parameter.grad is not None and parameter.grad.any(), n
            assert not torch.equal(parameter, before[n]), n
        else:
            assert parameter.grad is None, n
            assert torch.equal(parameter, before[n]), n
    assert all(torch.equal(v, buffers[n]) for n, v in model.named_buffers())


@pytest.mark.parametrize("name", CAUSAL)
def test_fine_tuning_descends_from_the_true_start(name) -> None:
    """Gradients of every trained parameter against finite differences of the loss."""
    model = finetuned(backbone=name)
    batch = training_batch()
    model.train().calculate_loss(batch).backward()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        direction = torch.randn(parameter.shape, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction * step)
                values.append(model.calculate_loss(batch).item())
                parameter.sub_(direction * step)
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx((parameter.grad * direction).sum().item(), rel=1e-4, abs=1e-8)


def test_domain_positions_start_as_the_global_ones() -> None:
    model = build(LLMEDT)
    assert not torch.equal(model.domain_positions[0].weight, model.encoder.positions.weight)
    model.begin_finetuning()
    for table in model.domain_positions:
        assert torch.equal(table.weight, model.encoder.positions.weight)
        assert table.weight.data_ptr() != model.encoder.positions.weight.data_ptr()


def test_fine_tuning_from_the_zero_map_starts_from_the_global_scores() -> None:
    torch.manual_seed(0)
    model = LLMEDT({**CONFIG, "adapter_start": "zero"}, TinyShop()).eval()
    with torch.no_grad():
        before = model.user_vectors(evaluation_batch())
        model.begin_finetuning()
        after = model.eval().user_vectors(evaluation_batch())
    for domain in (0, 1):
        assert torch.equal(after[domain], before[domain])


def test_paper_adapters_start_as_projections_onto_the_axes_of_their_domains_items() -> None:
    torch.manual_seed(0)
    model = LLMEDT({**CONFIG, "adapter_start": "projection", "adapter_size": 2}, TinyShop())
    model.begin_finetuning()
    vectors = model.eval().item_vectors().detach()
    for domain in (0, 1):
        rows = vectors[model.item_domain == domain]
        assert len(rows) > 2
        axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:2]
        states = torch.randn(5, vectors.shape[1])
        assert torch.allclose(model.adapt(domain, states), states @ axes.T @ axes, atol=1e-5)


def test_the_start_of_residual_adapters_is_the_identity_whatever_adapter_start_says() -> None:
    for start in ("zero", "projection"):
        model = LLMEDT({**CONFIG, "adapter": "residual", "adapter_start": start}, TinyShop())
        model.begin_finetuning()
        states = torch.randn(5, CONFIG["hidden_size"])
        assert torch.equal(model.adapt(0, states), states)


@pytest.mark.parametrize("model_class", [LLMEDT, LLMEDTFinetune])
@pytest.mark.parametrize("name", CAUSAL)
def test_frozen_part_has_no_dropout(name, model_class) -> None:
    model = build(model_class, backbone=name)
    batch = training_batch()
    if model_class is LLMEDT:
        model.train()
        assert model.calculate_loss(batch).item() != model.calculate_loss(batch).item()
    model.begin_finetuning()
    model.train()
    assert model.training
    assert not model.encoder.backbone.training
    training = model.calculate_loss(batch).item()
    assert training == model.calculate_loss(batch).item()
    assert training == model.eval().calculate_loss(batch).item()


# -- item dropout ---------------------------------------------------------------------------------


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
    model = build(LLMEDT, backbone=name, dropout=0.0, item_dropout=0.4)
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
            model.train()
        else:
            model.eval()
        heard.clear()
        model.calculate_loss(batch)
        assert torch.allclose(heard[0][before_target], whole)


# -- checkpoints of stage 1 -----------------------------------------------------------------------


@pytest.mark.parametrize("pretrained_class", [LLMEDTPretrain, LLMEDT])
def test_finetune_model_takes_what_stage_1_learned(pretrained_class) -> None:
    options = {"item_embedding": "both", "align_weight": 0.5, "adapter_start": "zero"}
    pretrained = build(pretrained_class, seed=1, **options)
    model = build(LLMEDTFinetune, seed=2, **options)
    own = {n: v.clone() for n, v in model.domain_adapters.state_dict().items()}
    model.load_pretrained(pretrained.state_dict())
    for n, value in pretrained.state_dict().items():
        if not n.startswith(("domain_", "profile_adapter.")):  # no score needs profiles any more
            assert torch.equal(model.state_dict()[n], value), n
    for n, value in model.domain_adapters.state_dict().items():
        assert torch.equal(value, own[n])
    for table in model.domain_positions:
        assert torch.equal(table.weight, pretrained.encoder.positions.weight)
    assert not model.encoder.positions.weight.requires_grad


def test_adapters_start_from_the_items_of_the_checkpoint() -> None:
    pretrained = build(LLMEDT, seed=1)
    model = build(LLMEDTFinetune, seed=2)
    model.load_pretrained(pretrained.state_dict())
    pretrained.begin_finetuning()
    states = torch.randn(5, CONFIG["hidden_size"], dtype=torch.float64)
    for domain in (0, 1):
        adapted = model.adapt(domain, states)
        assert adapted.any()
        assert torch.allclose(adapted, pretrained.adapt(domain, states))


def test_finetune_model_needs_no_profiles_of_the_checkpoint() -> None:
    pretrained = build(LLMEDTPretrain, seed=1, align_weight=0.5)
    model = build(LLMEDTFinetune, seed=2, align_weight=0.0)
    model.load_pretrained(pretrained.state_dict())
    assert torch.equal(model.encoder.positions.weight, pretrained.encoder.positions.weight)


@pytest.mark.parametrize(
    ("theirs", "mine", "said"),
    [
        ({"hidden_size": 4}, {}, "other sizes"),
        ({}, {"item_embedding": "both"}, "lacks parts"),
        ({}, {"n_layers": 3}, "lacks parts"),
        ({"item_embedding": "both"}, {}, "parts that this one lacks"),
        ({"n_layers": 3}, {}, "parts that this one lacks"),
        ({"backbone": "gru4rec"}, {}, "lacks parts"),
        ({"backbone": "bert4rec"}, {}, "parts that this one lacks"),
        ({}, {"text_start": "principal"}, "another text_start"),
        ({"text_start": "principal"}, {}, "another text_start"),
        ({"text_start": "principal"}, {"text_start": "whitened"}, "another text_start"),
        ({"text_start": "whitened"}, {"text_start": "canonical"}, "another text_start"),
        ({"item_embedding": "id"}, {"text_start": "principal"}, "lacks parts"),
    ],
)
def test_checkpoint_of_another_configuration_is_refused_in_one_line(theirs, mine, said) -> None:
    state = build(LLMEDTPretrain, **theirs).state_dict()
    with pytest.raises(CheckpointError, match=said) as caught:
        build(LLMEDTFinetune, **mine).load_pretrained(state)
    assert "\n" not in str(caught.value)


def test_finetune_model_takes_a_principal_stage_1() -> None:
    pretrained = build(LLMEDT, seed=1, text_start="principal")
    model = build(LLMEDTFinetune, seed=2, text_start="principal")
    model.load_pretrained(pretrained.state_dict())
    items = torch.arange(N_ITEMS)
    assert torch.equal(model.item_embedding(items), pretrained.item_embedding(items))


@pytest.mark.parametrize(
    "starts", [("random", "principal"), ("principal", "random"), ("whitened", "canonical")]
)
def test_checkpoint_of_another_text_start_does_not_fit(starts) -> None:
    theirs, mine = (build(LLMEDT, text_start=start) for start in starts)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_state(mine, {"state_dict": theirs.state_dict()}, "run.pth")


# -- BERT4Rec -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_backbones_predict_every_item_but_the_first(name) -> None:
    model = build(LLMEDTPretrain, backbone=name)
    sequence = torch.tensor([[4, 2, 3, 0], [5, 1, 0, 0]])
    assert model.encoder.choose_targets(sequence).int().tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.0, [[0, 0, 1, 0], [0, 1, 0, 0]]), (1.0, [[0, 1, 1, 0], [0, 1, 0, 0]])],
)
def test_bidirectional_hides_the_last_item_and_a_share_of_the_rest(ratio, expected) -> None:
    model = build(LLMEDTPretrain, backbone="bert4rec", mask_ratio=ratio)
    sequence = torch.tensor([[4, 2, 3, 0], [5, 1, 0, 0]])
    assert model.encoder.choose_targets(sequence).int().tolist() == expected


def test_bidirectional_hides_the_configured_share() -> None:
    model = build(LLMEDTPretrain, backbone="bert4rec", mask_ratio=0.3)
    torch.manual_seed(0)
    chosen = model.encoder.choose_targets(torch.ones(400, 52, dtype=torch.int64))
    assert not chosen[:, 0].any()
    assert chosen[:, -1].all()
    assert chosen[:, 1:-1].float().mean().item() == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize("finetune", [False, True])
def test_hidden_target_never_influences_its_own_prediction(finetune) -> None:
    """The states that predict hidden targets are the same whatever those targets are."""
    model = (finetuned if finetune else lambda **o: build(LLMEDT, **o))(backbone="bert4rec")
    heard = []
    model.next_item_loss = lambda batch, lookup, states, chosen: (
        heard.append(states[chosen].detach()) or states.sum() * 0
    )
    batch = training_batch()
    torch.manual_seed(3)
    chosen = model.encoder.choose_targets(batch["sequence"])
    changed = {user: list(items) for user, items in SEQUENCES.items()}
    for row, user in enumerate(USERS):
        for step in torch.nonzero(chosen[row]).squeeze(1).tolist():
            changed[user][step] = negative_of(user, changed[user][step])
    assert changed != SEQUENCES
    for rows in (batch, {**batch, **changed_sequences(changed, batch)}):
        torch.manual_seed(3)
        model.calculate_loss(rows)
    assert torch.allclose(*heard, atol=1e-12)
    assert len(heard[0]) > 3


def changed_sequences(changed: dict, batch: dict) -> dict:
    """Sequence fields of changed items at unchanged places (which may now repeat)."""
    out = {"sequence": torch.zeros_like(batch["sequence"])}
    for row, items in enumerate(changed.values()):
        out["sequence"][row, : len(items)] = torch.tensor(items)
    for domain in (0, 1):
        out[f"sequence_{domain}"] = torch.zeros_like(batch[f"sequence_{domain}"])
        for row, items in enumerate(changed.values()):
            own = [item for item in items if domain_of(item) == domain]
            out[f"sequence_{domain}"][row, : len(own)] = torch.tensor(own, dtype=torch.int64)
    return out


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_states_before_a_target_have_not_seen_it(name) -> None:
    model = build(LLMEDTPretrain, backbone=name)
    sequence = torch.tensor([[4, 2, 8, 9, 1]])
    masked = model.encoder.choose_targets(sequence)
    lookup = model.item_embedding
    before = model.encoder.before_targets(lookup, sequence, masked)
    for step in range(1, 5):
        other = sequence.clone()
        other[0, step:] = 7
        after = model.encoder.before_targets(lookup, other, masked)
        assert torch.allclose(before[:, :step], after[:, :step], atol=1e-12)


def test_bidirectional_scores_come_from_a_mask_behind_the_history() -> None:
    model = build(LLMEDTPretrain, backbone="bert4rec")
    rows = evaluation_batch()
    (state, _) = model.user_vectors(rows)
    for row, history in enumerate(SEQUENCES.values()):
        expected = run_alone(model, [*history, None], model.encoder.positions)[-1]
        assert np.allclose(array(state)[row], expected)


def test_mask_vector_is_learned() -> None:
    model = build(LLMEDTPretrain, backbone="bert4rec")
    model.train().calculate_loss(training_batch()).backward()
    assert model.encoder.backbone.mask_vector.grad.any()


@pytest.mark.parametrize("name", ALL)
def test_user_without_a_domain_leaves_no_nan_behind(name) -> None:
    """An empty sub-sequence beside full ones: states, loss and gradients stay finite."""
    model = build(LLMEDT, backbone=name, pretrain_sequences="all")
    model.train().calculate_loss(training_batch((2, 3))).backward()
    for n, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), n


def test_no_row_of_attention_is_empty() -> None:
    """A softmax over nothing is NaN in older versions of torch."""
    model = build(LLMEDT, backbone="bert4rec", pretrain_sequences="all")
    seen = []
    model.encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    model.calculate_loss(training_batch((2, 3)))
    assert len(seen) == 3
    assert all(valid.any(1).all() for valid in seen)


# -- choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "item_embedding",
        "backbone",
        "adapter",
        "adapter_start",
        "loss",
        "align_loss",
        "pretrain_sequences",
    ],
)
@pytest.mark.parametrize("model_class", [LLMEDTPretrain, LLMEDTFinetune, LLMEDT])
def test_bad_choices_are_refused_in_one_line(key, model_class) -> None:
    with pytest.raises(ConfigError, match=f"{key} 'nonsense' is not one of") as caught:
        model_class({**CONFIG, key: "nonsense"}, TinyShop())
    assert "\n" not in str(caught.value)


def test_heads_that_do_not_divide_the_hidden_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_size must be a multiple of n_heads"):
        LLMEDTPretrain({**CONFIG, "n_heads": 3}, TinyShop())


def test_hard_negatives_take_the_place_of_uniform_ones_in_the_loss() -> None:
    torch.manual_seed(0)
    options = {"loss": "bpr", "negative_sampling": "hard", "negative_temperature": 1e-6}
    model = LLMEDTPretrain({**CONFIG, **options}, TinyShop()).eval()
    batch = next(iter(SequenceLoader({**CONFIG, **options}, TinyShop())))
    with torch.no_grad():
        loss = model.calculate_loss(batch)
        states = model.encoder.before_targets(model.embed, batch["sequence"], None)
        vectors, total, n = model.item_vectors(), 0.0, 0
        for row, items in enumerate(batch["sequence"]):
            for step, target in enumerate(items[1:].tolist()):
                if not target:
                    continue
                domain = int(model.item_domain[target])
                free = batch[f"negatives_{domain}"][~batch[f"owned_{domain}"][row]]
                hardest = (vectors[free] @ states[row, step]).max()
                total -= F.logsigmoid(vectors[target] @ states[row, step] - hardest).item()
                n += 1
    assert loss.item() == pytest.approx(total / n, rel=1e-4)
