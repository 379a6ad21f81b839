"""SyNCRec, part by part, against hand-computed numbers and slow references."""

import common
import numpy as np
import pytest
import torch
from common import USERS, own_items
from slow_reference import (
    SEQUENCES,
    array,
    check_scores,
    domain_of,
    evaluation_batch,
    item_vector,
    layer_norm,
    linear,
    training_batch,
)

from recbole_edt.model.baselines.syncrec import Gate, SyNCRec, Tower, mutual_information_loss

CROSS = 2


def make(**options) -> SyNCRec:
    model = common.make(SyNCRec, **{"mim_weight": 0.7, **options})
    model.gap_decay, model.gap_rate = 0.5, 3.2
    return model


def slow_gate(gate: Gate, inputs: list[np.ndarray]) -> np.ndarray:
    logits = linear(gate.weigh, layer_norm(gate.norm, np.mean(inputs, axis=0)))
    return np.exp(logits) / np.exp(logits).sum()


def slow_tower(tower: Tower, vector: np.ndarray) -> np.ndarray:
    hidden = torch.nn.functional.gelu(torch.from_numpy(linear(tower.inner, vector))).numpy()
    return layer_norm(tower.norm, vector + linear(tower.outer, hidden))


def slow_state(model: SyNCRec, task: int, history: list[int]) -> np.ndarray:
    """State of a task behind a history, which is all that anything is shown."""
    vectors = [item_vector(model, item) for item in history]
    positions = array(model.positions.weight)[: len(history)]
    weights = slow_gate(model.gates[task], [v + p for v, p in zip(vectors, positions, strict=True)])
    total = np.zeros_like(vectors[0])
    for weight, expert in zip(
        weights, [*model.experts["cross"], *model.experts["single"]], strict=True
    ):
        valid = torch.ones(1, len(history), dtype=torch.bool)
        out = expert(torch.from_numpy(np.stack(vectors))[None], torch.from_numpy(positions), valid)
        total = total + weight * array(out)[0, -1]
    return slow_tower(model.towers[task], total)


def targets():
    """Yield every training target: its user, what came before it, the same in its domain, it."""
    for user, items in SEQUENCES.items():
        for step in range(1, len(items)):
            own = own_items(items[:step], domain_of(items[step]))
            yield user, items[:step], own, items[step]


def slow_prediction_losses(model: SyNCRec, loss: str) -> tuple[float, float, np.ndarray]:
    """Loss of SDSR, corrected loss of CDSR, and the batch's gaps, target by target."""

    def term(state, user, target):
        return common.loss_term(loss, lambda i: state @ item_vector(model, i), user, target)

    single, cross, differences = [], ([], []), ([], [])
    for user, history, own, target in targets():
        domain = domain_of(target)
        cross[domain].append(term(slow_state(model, CROSS, history), user, target))
        if own:
            single.append(term(slow_state(model, domain, own), user, target))
            differences[domain].append(single[-1] - cross[domain][-1])
    gaps = np.array([np.mean(values) for values in differences])
    logits = 0.5 * array(model.transfer_gaps) + 3.2 * gaps
    weights = np.exp(logits) / np.exp(logits).sum()
    corrected = sum(2 * w * sum(values) for w, values in zip(weights, cross, strict=True))
    return np.mean(single), corrected / sum(map(len, cross)), gaps


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


def slow_mutual_information(model: SyNCRec, users=USERS) -> float:
    """One row per user given: the last states of rows of other users are the negatives."""
    total = 0.0
    for domain in (0, 1):
        matrix = array(model.discriminators[domain].weight)
        pairs, last = [], []
        for user in users:
            mine = [
                (slow_state(model, CROSS, history), slow_state(model, domain, own))
                for owner, history, own, target in targets()
                if owner == user and own and domain_of(target) == domain
            ]
            pairs += [(user, *states) for states in mine]
            last += [(user, single) for _, single in mine[-1:]]
        terms = []
        for user, cross, single in pairs:
            negatives = [state for other, state in last if other != user]
            against = sum(np.exp(sigmoid(negative @ matrix @ cross)) for negative in negatives)
            terms.append(np.log(against) - sigmoid(single @ matrix @ cross))
        assert len(terms) > 2
        total += np.mean(terms)
    return total


@pytest.mark.parametrize("task", [0, 1, CROSS])
def test_gradient_stops_at_the_experts_of_the_other_task(task) -> None:
    model = make()
    model.run_task(task, model.embed, training_batch()["sequence"]).square().sum().backward()
    for kind, experts in model.experts.items():
        learns = (kind == "cross") == (task == CROSS)
        assert all((p.grad is not None) == learns for p in experts.parameters())


def test_relative_gaps_by_hand() -> None:
    model = make()
    assert array(model.relative_gaps(torch.zeros(2))) == pytest.approx([0.5, 0.5])
    model.transfer_gaps.copy_(torch.tensor([0.2, -0.4]))
    gaps = torch.tensor([0.5, 0.0], dtype=torch.float64)
    # 0.5 * (0.2, -0.4) + 3.2 * (0.5, 0) = (1.7, -0.2); a difference of 1.9
    expected = [1 / (1 + np.exp(-1.9)), 1 / (1 + np.exp(1.9))]
    assert np.allclose(array(model.relative_gaps(gaps)), expected)
    assert np.allclose(array(model.transfer_gaps), [0.2, -0.4])  # evaluation keeps nothing
    model.train()
    assert np.allclose(array(model.relative_gaps(gaps)), expected)
    assert np.allclose(array(model.transfer_gaps), [1.7, -0.2])
    # 0.5 * (1.7, -0.2) + 3.2 * (0, 0.2) = (0.85, 0.54)
    weights = model.relative_gaps(torch.tensor([0.0, 0.2], dtype=torch.float64))
    assert np.allclose(array(weights), [1 / (1 + np.exp(-0.31)), 1 / (1 + np.exp(0.31))])


def both_tasks(model: SyNCRec, batch):
    lookup = model.batch_lookup(batch)
    cross = model.run_task(CROSS, lookup, batch["sequence"][:, :-1])
    single, has_history = model.encode_domains(
        batch, lambda domain, sequence, _: model.run_task(domain, lookup, sequence[:, :-1])
    )
    return lookup, cross, single, has_history


def test_weights_of_the_domains_carry_no_gradient() -> None:
    """The corrected loss is the sum of the domains' losses, each times a constant."""
    model = make(loss="softmax")
    batch = training_batch()
    lookup, cross, single, has_history = both_tasks(model, batch)
    leaf = single.detach().requires_grad_()
    _, corrected = model.prediction_losses(batch, lookup, cross, leaf, has_history)
    (gradient,) = torch.autograd.grad(corrected, leaf, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_mutual_information_by_hand() -> None:
    anchors = torch.tensor([[np.log(3.0), 0.0], [0.0, 0.0], [5.0, 5.0]])
    positives = torch.tensor([[1.0, 0.0], [9.0, 9.0], [1.0, 1.0]])
    negatives = torch.tensor([[-1.0, 7.0], [0.0, 1.0]])
    same = torch.tensor([[False, False], [True, False], [True, True]])  # the last has no negative
    # sigmoid of log 3 is 3/4, of -log 3 is 1/4
    first = np.log(np.exp(0.25) + np.exp(0.5)) - 0.75
    second = 0.5 - 0.5
    loss = mutual_information_loss(anchors.float(), positives, negatives, same)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_windows_of_one_user_are_not_negatives() -> None:
    model = make()
    batch = training_batch((1, 4, 1))
    _, cross, single, has_history = both_tasks(model, batch)
    loss = model.mutual_information(batch, cross, single, has_history)
    assert loss.item() == pytest.approx(slow_mutual_information(model, (1, 4, 1)), rel=1e-6)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_total_loss_equals_a_loop_over_targets(loss) -> None:
    """No state knows what comes after it: the slow reference is shown the prefix alone."""
    model = make(loss=loss, dropout=0.0)
    model.transfer_gaps.copy_(torch.tensor([0.3, -0.1]))
    single, cross, gaps = slow_prediction_losses(model, loss)
    expected = single + cross + 0.7 * slow_mutual_information(model)
    batch = training_batch(extra=1)
    assert model.calculate_loss(batch).item() == pytest.approx(expected, rel=1e-5)
    model.gap_decay, model.gap_rate = 0.0, 1.0
    model.train().calculate_loss(batch)  # which keeps the gaps
    assert array(model.transfer_gaps) == pytest.approx(gaps, rel=1e-4)


def test_users_are_scored_by_cdsr_alone() -> None:
    model = make()

    def score_of(history, item):
        return slow_state(model, CROSS, history) @ item_vector(model, item)

    check_scores(model, score_of)
    batch = evaluation_batch()
    with torch.no_grad():
        vectors = model.user_vectors(batch)
        assert vectors[1] is vectors[0]
        for parameter in (*model.gates[:CROSS].parameters(), *model.towers[:CROSS].parameters()):
            parameter.add_(1.0)
        assert torch.equal(model.user_vectors(batch)[0], vectors[0])
