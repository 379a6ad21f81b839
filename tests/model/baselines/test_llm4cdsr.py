"""LLM4CDSR, part by part, against slow references: one user, one position, one pair at a time."""

import math

import numpy as np
import pytest
import torch
from slow_reference import (
    CONFIG,
    MAX_LENGTH,
    N_ITEMS,
    NO_PROFILE,
    SEQUENCES,
    SHARED,
    TEXT_SIZE,
    TinyShop,
    alignment,
    array,
    build,
    domain_of,
    evaluation_batch,
    item_vector,
    negative_of,
    prefixes,
    training_batch,
    two_layers,
)

from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.errors import ConfigError
from recbole_edt.model.baselines.llm4cdsr import LLM4CDSR
from recbole_edt.quick_start import make_loaders, run_recbole_edt
from recbole_edt.trainer import trainer_class

CAUSAL = ("sasrec", "gru4rec")
ALL = (*CAUSAL, "bert4rec")
USERS = tuple(SEQUENCES)
OF_BOTH = (1, 4, 5)  # users with items of both domains
OPTIONS = {
    "regularisation_weight": 0.0,
    "regularisation_temperature": 0.3,
    "first_items": True,
    "local_start": "random",
}


def make(**options) -> LLM4CDSR:
    return build(LLM4CDSR, **{**OPTIONS, **options})


def loss_of(model, batch) -> float:
    """Loss without dropout."""
    return model.eval().calculate_loss(batch).item()


# -- the paper's equations, slowly ----------------------------------------------------------------


def local_vector(model, item: int) -> np.ndarray:
    return array(model.local_embedding.weight)[item]


def states_of(encoder, vector_of, items: list[int | None]) -> np.ndarray:
    """States of one thread on one unpadded sequence; None stands for the mask."""
    vectors = [
        array(encoder.backbone.mask_vector) if item is None else vector_of(item) for item in items
    ]
    inputs = torch.from_numpy(np.stack(vectors))[None]
    valid = torch.ones(1, len(items), dtype=torch.bool)
    return array(encoder.backbone(inputs, encoder.positions.weight[: len(items)], valid))[0]


def after(encoder, vector_of, history: list[int]) -> np.ndarray:
    """State of one thread that predicts what follows the history (eq. 2)."""
    shown = history if encoder.backbone.causal else [*history, None]
    return states_of(encoder, vector_of, shown)[-1]


def global_state(model, history: list[int]) -> np.ndarray:
    return after(model.encoder, lambda item: item_vector(model, item), history)


def score(model, history: list[int], item: int) -> float:
    """Eq. 3: the global score, plus the local one where the item's domain has history."""
    out = global_state(model, history) @ item_vector(model, item)
    domain = domain_of(item)
    own = [i for i in history if domain_of(i) == domain]
    if own:
        state = after(model.local_encoders[domain], lambda i: local_vector(model, i), own)
        out += state @ local_vector(model, item)
    return float(out)


def term(model, user: int, history: list[int], target: int) -> float:
    """One target's part of eq. 4, or of the sampled softmax."""

    def scored(item):
        return score(model, history, item)

    return loss_term(model, scored, user, target)


def loss_term(model, scored, user: int, target: int) -> float:
    if model.loss_name == "bpr":
        return math.log1p(math.exp(scored(negative_of(user, target)) - scored(target)))
    rest = [n for n in SHARED[domain_of(target)] if n not in SEQUENCES[user]]
    top = math.exp(scored(target))
    return -math.log(top / (top + sum(math.exp(scored(n)) for n in rest)))


# -- eq. 3: scores --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_scores_are_the_sum_of_the_global_and_the_local_thread(name) -> None:
    model = make(backbone=name)
    rows = evaluation_batch()
    with torch.no_grad():
        everything = array(model.full_sort_predict(rows))
        for row, history in enumerate(SEQUENCES.values()):
            for item in range(1, N_ITEMS):
                expected = score(model, history, item)
                assert everything[row, item] == pytest.approx(expected, rel=1e-8, abs=1e-10)
        for item in range(1, N_ITEMS):
            one = {**rows, "item_id": torch.full((len(USERS),), item)}
            assert np.allclose(array(model.predict(one)), everything[:, item])
        candidates = torch.tensor([[1, 4, 3], [6, 12, 7], [12, 11, 6], [5, 5, 1], [8, 9, 10]])
        some = array(model.candidate_scores(rows, candidates))
        assert np.allclose(some, np.take_along_axis(everything, candidates.numpy(), 1))


@pytest.mark.parametrize("name", ALL)
def test_scores_depend_on_neither_padding_nor_batch_composition(name) -> None:
    model = make(backbone=name)
    with torch.no_grad():
        whole = model.full_sort_predict(evaluation_batch())
        padded = model.full_sort_predict(evaluation_batch(extra=1))
        assert torch.allclose(whole, padded, atol=1e-10)
        for row, user in enumerate(USERS):
            alone = model.full_sort_predict(evaluation_batch([user]))
            assert torch.allclose(alone[0], whole[row], atol=1e-10)


def test_every_thread_has_weights_positions_and_items_of_its_own() -> None:
    model = make()
    threads = [model.encoder, *model.local_encoders]
    parameters = [id(p) for thread in threads for p in thread.parameters()]
    assert len(threads) == 3
    assert len(parameters) == len(set(parameters)) == 3 * len(list(model.encoder.parameters()))
    vectors = model.item_vectors()
    for item in range(N_ITEMS):
        assert np.allclose(array(vectors)[item, :8], item_vector(model, item))
        assert np.allclose(array(vectors)[item, 8:], local_vector(model, item))


# -- eq. 4: recommendation loss -------------------------------------------------------------------


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
    batch = training_batch()
    torch.manual_seed(3)
    chosen = model.encoder.choose_targets(batch["sequence"])
    terms = []
    for row, (user, items) in enumerate(SEQUENCES.items()):
        hidden = chosen[row].tolist()
        shown = [None if h else i for i, h in zip(items, hidden, strict=False)]
        states = states_of(model.encoder, lambda item: item_vector(model, item), shown)
        for step, target in enumerate(items):
            domain = domain_of(target)
            own = [s for s, item in enumerate(items) if domain_of(item) == domain]
            place = own.index(step)
            if not hidden[step] or (place == 0 and not first_items):
                continue
            local = np.zeros(8)
            if place:
                local = states_of(
                    model.local_encoders[domain],
                    lambda item: local_vector(model, item),
                    [shown[s] for s in own],
                )[place]

            def scored(item, state=states[step], local=local):
                return state @ item_vector(model, item) + local @ local_vector(model, item)

            terms.append(loss_term(model, scored, user, target))
    assert len(terms) > 3
    torch.manual_seed(3)
    assert loss_of(model, batch) == pytest.approx(np.mean(terms), rel=1e-5)


def test_without_any_target_the_loss_is_zero_and_harmless() -> None:
    model = make(first_items=False, dropout=0.0)
    batch = training_batch((1, 2), sequences={1: [1, 6], 2: [8, 2]})
    value = model.train().calculate_loss(batch)
    value.backward()
    assert value.item() == 0.0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


# -- what states see ------------------------------------------------------------------------------


def all_states(model, batch, chosen) -> torch.Tensor:
    """States of the global and the local threads, [B, L, 2 d]."""
    lookup = model.batch_lookup(batch)
    size = model.size
    states = model.encoder.before_targets(lookup.columns(0, size), batch["sequence"], chosen)
    local, _ = model.local_states(batch, lookup.columns(size, 2 * size), chosen)
    return torch.cat([states, local], -1)


@pytest.mark.parametrize("step", range(1, 7))
@pytest.mark.parametrize("name", CAUSAL)
def test_states_do_not_see_the_target_nor_what_is_behind_it(name, step) -> None:
    model = make(backbone=name)
    before = SEQUENCES[4]
    other = {1: 5, 2: 3, 3: 4, 6: 9, 11: 7, 12: 8}  # each of the same domain, none twice
    later = [*before[:step], *(other[item] for item in before[step:])]
    states = []
    for items in (before, later):
        batch = training_batch([4], sequences={4: items})
        states.append(all_states(model, batch, batch["sequence"] > 0))
    assert torch.equal(states[0][:, :step], states[1][:, :step])
    if step < 6:
        assert not torch.allclose(states[0][:, step:], states[1][:, step:])


def test_bidirectional_states_never_see_their_own_target() -> None:
    model = make(backbone="bert4rec")
    states = []
    for hidden in (2, 5):
        batch = training_batch([1], sequences={1: [1, 6, hidden, 7, 3]})
        chosen = torch.tensor([[False, False, True, False, False]])
        states.append(all_states(model, batch, chosen)[0, 1])
    assert torch.equal(*states)


# -- eq. 6: items of both domains -----------------------------------------------------------------

PAIRS = {1: [1, 6], 2: [8, 2], 3: [4, 5, 3], 4: [9, 4]}  # user 3 has nothing of domain 1


def test_eq6_hand_computed() -> None:
    model = make(align_loss="infonce", regularisation_temperature=0.5)
    vectors = torch.zeros(N_ITEMS, 2)
    vectors[1], vectors[6] = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 7.0])  # cosine 0.8
    vectors[2], vectors[8] = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0])  # cosine 1
    batch = training_batch((1, 2, 3), sequences=PAIRS)
    loss = model.item_regularisation(batch, lambda items: vectors[items])
    # logits: item 1 with 6 and 8: 1.6, 1.2; item 2 with 6 and 8: 0, 2
    rows = math.log(1 + math.exp(1.2 - 1.6)) + math.log(1 + math.exp(0 - 2))
    columns = math.log(1 + math.exp(0 - 1.6)) + math.log(1 + math.exp(1.2 - 2))
    assert loss.item() == pytest.approx((rows + columns) / 2)


@pytest.mark.parametrize("kind", ["paper", "infonce"])
def test_eq6_equals_a_loop_over_pairs(kind) -> None:
    model = make(align_loss=kind)
    batch = training_batch((1, 2, 3, 4), sequences=PAIRS)
    unified = model.batch_lookup(batch).columns(0, model.size)
    first = np.stack([item_vector(model, item) for item in (1, 2, 4)])
    second = np.stack([item_vector(model, item) for item in (6, 8, 9)])
    expected = alignment(first, second, 0.3, kind == "infonce")
    assert model.item_regularisation(batch, unified).item() == pytest.approx(expected, rel=1e-5)


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


@pytest.mark.parametrize("users", [(1,), (2, 3), (1, 2, 3)])
def test_eq6_is_zero_with_fewer_than_two_users_of_both_domains(users) -> None:
    model = make(regularisation_weight=0.5)
    plain = make()
    assert loss_of(model, training_batch(users)) == loss_of(plain, training_batch(users))


# -- eqs. 7, 8: profiles and the objective --------------------------------------------------------


@pytest.mark.parametrize("kind", ["paper", "infonce"])
def test_eq8_adds_alpha_times_eq6_and_beta_times_eq7(kind) -> None:
    model = make(regularisation_weight=0.7, align_weight=0.4, align_loss=kind)
    texts = TinyShop().user_embeddings().astype(np.float64)
    users = [user for user in PAIRS if user != NO_PROFILE]
    states = np.stack([global_state(model, PAIRS[user][:-1]) for user in users])
    profiles = np.stack([two_layers(model.profile_adapter, texts[user]) for user in users])
    align = alignment(states, profiles, CONFIG["align_temperature"], kind == "infonce")
    first = np.stack([item_vector(model, item) for item in (1, 2, 4)])
    second = np.stack([item_vector(model, item) for item in (6, 8, 9)])
    contrast = alignment(first, second, 0.3, kind == "infonce")
    batch = training_batch(tuple(PAIRS), sequences=PAIRS)
    plain = make()
    plain.load_state_dict(model.state_dict(), strict=False)
    expected = loss_of(plain, batch) + 0.7 * contrast + 0.4 * align
    assert loss_of(model, batch) == pytest.approx(expected, rel=1e-5)


def test_terms_of_weight_zero_are_not_computed() -> None:
    model = make()
    model.item_regularisation = model.profile_alignment = None
    assert model.profile_adapter is None
    assert np.isfinite(loss_of(model, training_batch()))


def test_without_profiles_the_user_term_is_skipped_and_said_once(caplog) -> None:
    model = make(shop=TinyShop(profiles=False), align_weight=0.4)
    plain = make()
    plain.load_state_dict(model.state_dict())
    with caplog.at_level("INFO"):
        values = [loss_of(model, training_batch()) for _ in range(2)]
    assert values == [loss_of(plain, training_batch())] * 2
    assert [r.getMessage() for r in caplog.records] == [
        "no profile embeddings: users are not aligned with profiles"
    ]


# -- starts ---------------------------------------------------------------------------------------


class LongText(TinyShop):
    """Item 12 is generated; texts have more entries than the vectors."""

    def __init__(self, generated_text: float = 1.0) -> None:
        super().__init__()
        self.item_generated[-1] = True
        self.generated_text = generated_text

    def item_embeddings(self) -> np.ndarray:
        out = np.random.default_rng(8).normal(size=(N_ITEMS, 10)).astype(np.float32)
        out[0], out[-1] = 0, self.generated_text
        return out


def test_local_embeddings_start_as_a_pca_of_each_domains_raw_items() -> None:
    config = {**CONFIG, **OPTIONS, "local_start": "principal"}

    def start(shop):
        torch.manual_seed(0)
        return array(LLM4CDSR(config, shop).local_embedding.weight)

    table = start(LongText())
    text = LongText().item_embeddings()
    for items in (range(1, 6), range(6, 12)):
        centred = text[items] - text[items].mean(0)
        # a PCA keeps inner products as well as so many directions can
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        kept = (left * values)[:, :8]
        mine = table[items]
        ratio = (mine @ mine.T) / (kept @ kept.T)
        assert np.allclose(ratio, ratio[0, 0], rtol=1e-2)
        assert np.sqrt((mine**2).mean()) == pytest.approx(0.02, rel=0.25)
    assert np.array_equal(start(LongText(generated_text=50.0))[1:-1], table[1:-1])


def test_local_embeddings_start_from_short_texts_in_as_many_entries_as_there_are() -> None:
    config = {**CONFIG, **OPTIONS, "local_start": "principal"}
    torch.manual_seed(1)
    random = LLM4CDSR({**config, "local_start": "random"}, TinyShop()).local_embedding.weight
    torch.manual_seed(1)
    table = LLM4CDSR(config, TinyShop()).local_embedding.weight
    changed = (table != random).any(0)
    assert changed.tolist() == [True] * TEXT_SIZE + [False] * (8 - TEXT_SIZE)
    assert torch.equal(table[0], random[0])


# -- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_parameter(name, loss) -> None:
    model = make(backbone=name, loss=loss, dropout=0.0, align_weight=0.3, regularisation_weight=0.3)
    model.train().calculate_loss(training_batch()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


def test_longest_histories_fit_positions() -> None:
    model = make()
    rows = evaluation_batch()
    full = torch.arange(1, MAX_LENGTH + 1)[None] % 5 + 6
    rows = {**{k: v[:1] for k, v in rows.items()}, "item_id_list": full, "item_id_list_1": full}
    rows["item_length"] = rows["item_length_1"] = torch.tensor([MAX_LENGTH])
    rows["item_length_0"] = torch.tensor([0])
    with torch.no_grad():
        scores = array(model.full_sort_predict(rows))[0]
    for item in (2, 9):
        assert scores[item] == pytest.approx(score(model, full[0].tolist(), item))


SMALL = {
    "epochs": 1,
    "hidden_size": 8,
    "inner_size": 8,
    "n_negatives": 6,
    "train_batch_size": 8,
    "learning_rate": 0.01,
    "eval_args.mode": "uni5",
    "topk": [3],
    "valid_metric": "NDCG@3",
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "threads": 1,
}


@pytest.fixture
def write_shop(tmp_path, make_shop, write_dataset):
    """Write a small shop, its rows changed by a function; the folder is the ``data_path``."""

    def write(name, change=lambda rows: rows):
        shop = make_shop(seed=3, n_users=20, n_items=(12, 14), lengths=(4, 8))
        rng = np.random.default_rng(0)
        return write_dataset(
            tmp_path / name,
            shop,
            rows=change(shop.rows),
            users=[f"u{user}" for user in range(20)],
            item_emb=rng.normal(size=(len(shop.items), 6)).astype(np.float32),
            user_emb=rng.normal(size=(20, 6)).astype(np.float32),
        )

    return write


def trained(folder, **changes):
    """Train through the front door; returns the results, and the best epoch loaded afresh."""
    settings = {**SMALL, "data_path": str(folder), "checkpoint_dir": f"{folder}/saved", **changes}
    results = run_recbole_edt("LLM4CDSR", "tiny", config_dict=settings)
    config = EDTConfig("LLM4CDSR", "tiny", None, settings)
    data = CrossDomainDataset(config)
    _, _, test = make_loaders(config, data)
    trainer = trainer_class(LLM4CDSR)(config, LLM4CDSR(config, data))
    trainer.load_best()
    return results, trainer, test


@pytest.mark.parametrize("preset", [None, "paper"])
def test_a_run_trains_and_its_checkpoint_scores_the_same(write_shop, preset) -> None:
    results, trainer, test = trained(write_shop("shop"), preset=preset)
    again = trainer.evaluate(test, load_best_model=False)
    assert again["ndcg@3"] == results["test"]["overall"]["ndcg@3"]
    start = LLM4CDSR(trainer.config, test._dataset)
    for name, value in trainer.model.state_dict().items():
        if not name.endswith("_spread"):
            assert not torch.equal(value, start.state_dict()[name]), name


def test_nothing_that_is_held_out_matters_to_training(write_shop) -> None:
    def swap_held_out(rows):
        last = {}
        for user, _, _, position in rows:
            last[user] = max(last.get(user, 0), position)
        other = {"art": "art0", "bik": "bike0"}
        return [
            (u, other[item[:3]] if place > last[u] - 2 else item, time, place)
            for u, item, time, place in rows
        ]

    states = []
    for name, change in (("one", lambda rows: rows), ("other", swap_held_out)):
        _, trainer, _ = trained(write_shop(name, change))
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("regularisation_weight", -0.1, "at least 0"),
        ("regularisation_temperature", 0.0, "above 0"),
        ("first_items", 1, "True or False"),
    ],
)
def test_impossible_values_are_refused(key, value, said) -> None:
    with pytest.raises(ConfigError, match=said):
        EDTConfig("LLM4CDSR", "cloth_sport", None, {key: value})


@pytest.mark.parametrize("key", ["local_start", "text_start", "align_loss", "backbone", "loss"])
def test_unknown_choices_are_refused(key) -> None:
    with pytest.raises(ConfigError, match=f"{key} 'nonsense' is not one of"):
        make(**{key: "nonsense"})
