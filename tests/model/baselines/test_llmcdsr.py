"""LLMCDSR, part by part, against slow references and numbers worked out by hand."""

import common
import numpy as np
import pytest
import torch
from common import USERS, own_items
from running import Run
from slow_reference import (
    N_ITEMS,
    SEQUENCES,
    SIZE,
    TinyShop,
    array,
    domain_of,
    evaluation_batch,
    items_of,
    states_alone,
)

from recbole_edt.data.dataloader import SequenceLoader
from recbole_edt.model.baselines.llmcdsr import (
    LLMCDSR,
    RecalledRows,
    RecallNetwork,
    front,
    insert_at_random,
    pseudo_items,
    users_of_both_domains,
)

OWN = {
    "item_embedding": "id",
    "encoded_sequences": "mixed",
    "contrast_weight": 0.3,
    "contrast_items": 100,
    "shuffle": False,
    "train_batch_size": 5,
}
INSERTED = {(1, 1): 9, (2, 1): 4, (2, 2): 5, (3, 1): 10, (3, 3): 12}
"""(user, number of raw rows before it) -> item that preprocessing inserted."""


def augmented_shop() -> TinyShop:
    return TinyShop(inserted=INSERTED)


def make(
    shop: TinyShop | None = None, stage: int = 2, n_recalled=2, recall_share=1.0, **options
) -> LLMCDSR:
    model = common.make(LLMCDSR, shop or augmented_shop(), **{**OWN, **options})
    model.n_recalled, model.recall_share = n_recalled, recall_share
    model.shadow_learning_rate = 0.5
    if stage == 2:
        model.begin_finetuning()
    return model


def batch_of(shop: TinyShop | None = None, **options):
    """All users' rows, by the loader itself."""
    config = common.config_of(LLMCDSR, **{**OWN, **options})
    (batch,) = SequenceLoader(config, shop or augmented_shop(), shuffle=False)
    return batch


def test_pseudo_items_are_each_users_inserted_rows_by_domain() -> None:
    shop = augmented_shop()
    pseudo = pseudo_items(shop.train_sequences, shop.item_domain, 2)
    assert pseudo.tolist() == [
        [[0, 0], [0, 0]], [[0, 0], [9, 0]], [[4, 5], [0, 0]], [[0, 0], [10, 12]],
        [[0, 0], [0, 0]], [[0, 0], [0, 0]],
    ]  # fmt: skip
    none = pseudo_items(TinyShop().train_sequences, shop.item_domain, 2)
    assert none.shape == (6, 2, 1)
    assert not none.any()
    both = users_of_both_domains(shop.train_sequences, shop.item_domain, 2)  # by their real rows
    assert both.tolist() == [False, True, False, False, True, True]


def test_kept_entries_move_to_the_front() -> None:
    values = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4], [9, 9, 9, 9]])
    kept = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert front(values, kept, -1).tolist() == [[6, 8, -1], [1, 2, 4], [-1, -1, -1]]


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_a_batch_without_its_inserted_rows_is_the_batch_of_the_raw_data(loss) -> None:
    batch = batch_of(loss=loss)
    raw = batch_of(TinyShop(), loss=loss)
    real = make(loss=loss).real_rows(batch)
    same = {"user_id", "sequence"} | {f"{f}_{d}" for f in ("sequence", "place") for d in (0, 1)}
    for field in same:
        assert torch.equal(real[field], raw[field]), field
    if loss == "softmax":
        assert all(real[f"seen_{d}"] is batch[f"seen_{d}"] for d in (0, 1))
        return
    for row, items in enumerate(batch["sequence"].tolist()):
        kept = [
            int(batch["negatives"][row, step - 1])
            for step, item in enumerate(items)
            if step and item and not batch["augmented"][row, step]
        ]
        assert real["negatives"][row, : len(kept)].tolist() == kept


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_weights_of_targets_follow_them_into_real_rows_and_rows_with_recalled_items(loss) -> None:
    model, batch = make(loss=loss, recency_half_life=30.0), batch_of(loss=loss)
    batch["target_weights"] = batch["sequence"][:, 1:].double()  # each target weighs as its id
    real = model.real_rows(batch)
    assert torch.equal(real["target_weights"], real["sequence"][:, 1:].double())
    recalled = model.recall(real)
    below = model._recalled_batch(real, recalled)
    known = recalled.source[:, 1:] > 0
    assert known.any()
    assert torch.equal(below["target_weights"][known], recalled.sequence[:, 1:][known].double())
    assert torch.isfinite(model.recommendation_loss(real, recalled))


def slow_contrast(texts: np.ndarray, features: np.ndarray) -> float:
    views = [("text", i, v) for i, v in enumerate(texts)]
    views += [("id", i, v) for i, v in enumerate(features)]
    terms = []
    for kind, i, vector in views:
        others = [(k, j, v) for k, j, v in views if (k, j) != (kind, i)]
        weights = [np.exp(vector @ v) for _, _, v in others]
        (top,) = (w for w, (k, j, _) in zip(weights, others, strict=True) if j == i and k != kind)
        terms.append(-np.log(top / sum(weights)))
    return float(np.mean(terms))


def term(model, batch, row: int, state, vectors, target: int) -> torch.Tensor:
    """Loss of a target against the negatives that the loader drew for it, or for its domain."""
    if model.loss_name == "bpr":  # raw items of a user are distinct
        step = batch["sequence"][row].tolist().index(target)
        others = [int(batch["negatives"][row, step - 1])]
    else:
        domain = domain_of(target)
        others = batch[f"negatives_{domain}"][~batch[f"seen_{domain}"][row]].tolist()
    logits = vectors[[target, *others]] @ state
    return logits.logsumexp(0) - logits[0]


def test_pretraining_loss_is_next_items_within_domains_plus_the_contrast() -> None:
    model, batch = make(stage=1), batch_of()
    vectors, terms = model.features.weight, []
    seen: tuple[set, set] = (set(), set())
    for row, items in enumerate(SEQUENCES.values()):
        for domain in (0, 1):
            own = own_items(items, domain)
            seen[domain].update(own)
            for step in range(1, len(own)):
                state = states_alone(model.domain_encoders[domain], vectors[own[:step]])[-1]
                terms.append(term(model, batch, row, state, vectors, own[step]).item())
    for row, items in enumerate(batch["sequence"].tolist()):
        for step, item in enumerate(items):
            if step and item and not batch["augmented"][row, step]:
                seen[domain_of(item)].add(int(batch["negatives"][row, step - 1]))
    expected = np.mean(terms)
    for domain in (0, 1):
        items = sorted(seen[domain])
        texts = array(model.text)[items] @ array(model.projections[domain].weight).T
        expected += 0.3 * slow_contrast(texts, array(vectors)[items])
    assert len(terms) == 13
    assert model.calculate_loss(batch).item() == pytest.approx(expected, rel=1e-6)


def test_no_more_items_are_contrasted_than_configured(monkeypatch) -> None:
    sizes = []
    monkeypatch.setattr(
        "recbole_edt.model.baselines.llmcdsr.contrastive_loss",
        lambda texts, features: sizes.append((len(texts), len(features))) or 0.0,
    )
    make(stage=1, contrast_items=3).calculate_loss(batch_of())
    assert sizes == [(3, 3), (3, 3)]


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec"])
def test_stage_1_scores_by_domain_and_gives_no_score_without_history(backbone) -> None:
    model = make(stage=1, backbone=backbone)
    scores = array(model.full_sort_predict(evaluation_batch()))
    vectors = model.features.weight
    for row, items in enumerate(SEQUENCES.values()):
        for domain in (0, 1):
            own = own_items(items, domain)
            expected = np.zeros(len(items_of(domain)))
            if own:
                state = states_alone(model.domain_encoders[domain], vectors[own])[-1]
                expected = array(vectors[items_of(domain)] @ state)
            assert np.allclose(scores[row, items_of(domain)], expected)


@pytest.mark.parametrize("history", [False, True])
def test_recall_network_weighs_pseudo_items_by_content_and_relevance(history) -> None:
    rng = np.random.default_rng(2)
    network = RecallNetwork(3, 2, history).double()
    pseudo, real = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 3))
    valid = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=bool)
    arguments = (torch.from_numpy(pseudo), torch.from_numpy(valid), torch.from_numpy(real))
    start = array(network(1, *arguments))
    assert np.allclose(start, [pseudo[0, :3].mean(0), pseudo[1, 0]])  # the mean
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape)))
    scores = [item @ array(network.content)[1] for item in pseudo[0, :3]]
    if history:
        cosines = [
            item @ real[0] / np.sqrt((item @ item) * (real[0] @ real[0])) for item in pseudo[0, :3]
        ]
        scores = [s + array(network.relevance)[1] * c for s, c in zip(scores, cosines, strict=True)]
    weights = np.exp(scores) / np.exp(scores).sum()
    expected = sum(w * item for w, item in zip(weights, pseudo[0, :3], strict=True))
    assert np.allclose(array(network(1, *arguments)), [expected, pseudo[1, 0]])


@pytest.mark.parametrize("wanted", [3, 7])
def test_the_most_similar_raw_items_are_recalled_but_not_the_users_own(wanted) -> None:
    """Where there are fewer, zeros take their places."""
    shop = augmented_shop()
    shop.item_generated[7] = True
    model = make(shop, n_recalled=wanted)
    vectors = torch.randn(2, SIZE, dtype=torch.float64)
    own = [[8, 12, 0], [0, 0, 0]]
    recalled = model.most_similar(1, vectors, torch.tensor(own)).tolist()
    features = array(model.features.weight)
    for row in (0, 1):
        free = [item for item in items_of(1) if item not in (7, *own[row])]
        cosine = {
            item: features[item] @ array(vectors[row]) / np.linalg.norm(features[item])
            for item in free
        }
        expected = sorted(free, key=cosine.get, reverse=True)[:wanted]
        assert recalled[row] == expected + [0] * (wanted - len(expected))


def test_recalled_items_are_put_before_items_at_every_place_alike() -> None:
    torch.manual_seed(0)
    n = 3000
    sequence = torch.tensor([[1, 2, 3, 0]]).repeat(n, 1)
    items, source = insert_at_random(sequence, torch.tensor([[8, 9]]).repeat(n, 1), 9)
    assert items.shape == source.shape == (n, 5)
    assert torch.equal(items[source >= 0].view(n, 3), sequence[:, :3])
    assert torch.equal(source[source >= 0].view(n, 3), torch.arange(3).expand(n, 3))
    assert (items[:, -1] == 3).all()  # nothing behind the last real item
    for item in (8, 9):
        place = (items == item).nonzero()[:, 1]
        before = [(source[:, :5] >= 0)[torch.arange(n), :].cumsum(1)[range(n), place]][0]
        share = torch.bincount(before, minlength=3) / n  # how many real items stand before it
        assert torch.allclose(share, torch.full((3,), 1 / 3), atol=0.04)


def test_a_sequence_that_grows_too_long_loses_its_beginning() -> None:
    torch.manual_seed(0)
    sequence = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    items, source = insert_at_random(sequence, torch.tensor([[8, 9], [8, 0]]), 4)
    assert items.shape == (2, 4)
    assert items[0, -1] == 4
    assert sorted(items[1].tolist()) == [0, 5, 6, 8]
    assert source[1].tolist()[-1] == -1
    assert ((source >= 0) == torch.isin(items, sequence[sequence > 0])).all()


def test_users_with_pseudo_items_get_recalled_ones_by_their_pooled_texts() -> None:
    model = make()
    real = model.real_rows(batch_of())
    recalled = model.recall(real)
    pooled = dict(zip(recalled.rows.tolist(), recalled.pooled, strict=True))
    assert sorted(pooled) == [0, 1, 2]  # users 1, 2 and 3
    text = array(model.text)
    for row, (domain, pseudo) in {0: (1, [9]), 1: (0, [4, 5]), 2: (1, [10, 12])}.items():
        project = array(model.projections[domain].weight).T
        items = torch.from_numpy(text[pseudo] @ project)[None]
        history = torch.from_numpy(text[SEQUENCES[USERS[row]]].mean(0) @ project)[None]
        valid = torch.ones(1, len(pseudo), dtype=torch.bool)
        expected = model.recall_network(domain, items, valid, history)[0]
        assert torch.allclose(pooled[row], expected)
        own = torch.tensor([[i for i in SEQUENCES[USERS[row]] if domain_of(i) == domain] or [0]])
        wanted = model.most_similar(domain, expected[None].detach(), own)[0].tolist()
        at = recalled.rows.tolist().index(row)
        inserted = recalled.sequence[at][(recalled.source[at] < 0) & (recalled.sequence[at] > 0)]
        assert sorted(inserted.tolist()) == sorted(wanted)


def test_a_share_of_the_rows_is_given_recalled_items() -> None:
    real = make().real_rows(batch_of())
    assert len(make(recall_share=0.4).recall(real).rows) == 2  # of five rows
    never = make(recall_share=0.0)
    assert never.recall(real) is None and never.meta_backward(batch_of(), batch_of()) is None
    assert make(TinyShop()).recall(real) is None


def slow_loss(model, batch, recalled: RecalledRows | None, shift=None) -> torch.Tensor:
    """Mean over all targets of real rows and of those with recalled items; each row alone.

    ``shift`` [n, d] is added, in even shares, to the input vectors of each row's recalled items.
    """
    vectors = model.item_embedding(torch.arange(N_ITEMS))
    rows = [(row, items, None, None) for row, items in enumerate(SEQUENCES.values())]
    for at, row in enumerate(recalled.rows.tolist() if recalled is not None else []):
        items = [item for item in recalled.sequence[at].tolist() if item]
        delta = None if shift is None else shift[at] / model.n_recalled
        rows.append((row, items, recalled.source[at].tolist(), delta))
    terms = []
    for row, items, source, delta in rows:
        inputs = vectors[items]
        if delta is not None:
            is_recalled = torch.tensor([source[step] < 0 for step in range(len(items))])
            inputs = inputs + is_recalled[:, None] * delta
        states = states_alone(model.encoder, inputs)
        for step in range(1, len(items)):
            if source is None or source[step] > 0:
                terms.append(term(model, batch, row, states[step - 1], vectors, items[step]))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize(("backbone", "kind"), [("sasrec", "id"), ("gru4rec", "both")])
def test_recommendation_loss_counts_targets_of_real_rows_and_those_with_recalled_items(
    backbone, kind, loss
) -> None:
    model = make(backbone=backbone, item_embedding=kind, loss=loss)
    batch = batch_of(loss=loss)
    real = model.real_rows(batch)
    for part in (None, model.recall(real)):
        expected = slow_loss(model, batch, part)
        ours = model.recommendation_loss(real, part)
        assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def test_all_sequences_adds_each_targets_domain_sub_sequence() -> None:
    model, batch = make(encoded_sequences="all"), batch_of()
    real = model.real_rows(batch)
    recalled = model.recall(real)
    vectors, terms = model.item_embedding(torch.arange(N_ITEMS)), []
    for row, items in enumerate(SEQUENCES.values()):
        for domain in (0, 1):
            own = own_items(items, domain)
            for step in range(1, len(own)):
                state = states_alone(model.encoder, vectors[own[:step]])[-1]
                terms.append(term(model, batch, row, state, vectors, own[step]).item())
    expected = slow_loss(model, batch, recalled).item() + np.mean(terms)
    assert model.recommendation_loss(real, recalled).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_a_bidirectional_backbone_trains_too(loss) -> None:
    model, batch = make(backbone="bert4rec", loss=loss), batch_of(loss=loss)
    model.train()
    assert torch.isfinite(model.calculate_loss(batch))
    assert torch.isfinite(model.meta_backward(batch, batch))


def recommender_parameters(model) -> list[torch.nn.Parameter]:
    return [*model.item_embedding.parameters(), *model.encoder.parameters()]


@pytest.mark.parametrize("attention", ["item", "history"])
def test_meta_gradient_is_that_of_the_shadows_loss_after_its_step(attention, monkeypatch) -> None:
    monkeypatch.setattr("recbole_edt.model.baselines.llmcdsr._RELATIVE_STEP", 1e-3)
    model, batch = make(recall_attention=attention), batch_of()
    judges = batch_of(TinyShop())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    shadow_loss = model.meta_backward(batch, judges)
    ours = [parameter.grad.clone() for parameter in model.recall_network.parameters()]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in recommender_parameters(model))

    torch.manual_seed(5)
    recalled = model.recall(model.real_rows(batch))
    parameters = recommender_parameters(model)

    def loss_after_step(shift: torch.Tensor) -> float:
        loss = slow_loss(model, batch, recalled, shift)
        step = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, part in zip(parameters, step, strict=True):
                parameter.sub_(0.5 * part)
            after = slow_loss(model, judges, None).item()
            model.load_state_dict(before)
        return after

    nothing = torch.zeros_like(recalled.pooled).detach()
    assert shadow_loss.item() == pytest.approx(loss_after_step(nothing), rel=1e-6)
    network = list(model.recall_network.parameters())
    generator, h = torch.Generator().manual_seed(1), 1e-4
    for _ in range(3):
        way = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in network]
        probe = torch.ones_like(nothing, requires_grad=True)  # forward derivative, by two backward
        backward = torch.autograd.grad(recalled.pooled, network, probe, create_graph=True)
        along = sum((part * step).sum() for part, step in zip(backward, way, strict=True))
        (shift,) = torch.autograd.grad(along, probe, retain_graph=True)
        slope = (loss_after_step(h * shift) - loss_after_step(-h * shift)) / (2 * h)
        mine = sum((part * step).sum() for part, step in zip(ours, way, strict=True)).item()
        assert abs(slope) > 1e-5
        assert mine == pytest.approx(slope, rel=1e-4)


def test_without_inserted_rows_it_trains_and_says_so(write_shop, tmp_path, monkeypatch) -> None:
    changes = {"epochs": 1, "augmentation": False}
    run = Run("LLMCDSR", common.settings_of("LLMCDSR", write_shop(tmp_path), **changes))
    said = []
    monkeypatch.setattr(run.model.logger, "info", lambda text, **_: said.append(text))
    run.fit()
    assert sum("no pseudo items" in text for text in said) == 1
    assert not run.model.recall_network.content.any()


def test_every_nth_batch_updates_the_recall_network(write_shop, tmp_path) -> None:
    run = Run("LLMCDSR", common.settings_of("LLMCDSR", write_shop(tmp_path), meta_interval=2))
    assert run.model.loss_over(run.train) == run.model.calculate_loss  # stage 1 has no such step
    run.model.begin_finetuning()
    judged = []
    run.model.meta_backward = lambda batch, judges: judged.append(set(judges["user_id"].tolist()))
    loss = run.model.loss_over(run.train)
    for batch in [*run.train, *run.train]:
        loss(batch)
    assert len(judged) == len(run.train)
    both = set(torch.nonzero(run.model.has_both).squeeze(1).tolist())
    assert judged[0] and all(users <= both for users in judged)
