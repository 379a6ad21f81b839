"""C2DSR, part by part, against graphs and losses made by plain loops (`slow_reference.py`)."""

from itertools import pairwise

import common
import numpy as np
import pytest
import torch
from common import loss_term
from slow_reference import (
    N_ITEMS,
    SEQUENCES,
    TinyShop,
    array,
    check_scores,
    domain_of,
    items_of,
    prefixes,
    sequences_of,
    states_of,
    training_batch,
)

from recbole_edt.model.baselines.c2dsr import C2DSR, ItemGraph

LAMBDA = 0.7


def make(shop: TinyShop | None = None, **options) -> C2DSR:
    return common.make(C2DSR, shop, **{"output_vectors": "own", "graph_edges": "all", **options})


def slow_vectors(table: np.ndarray, sequences, items: list[int]) -> dict:
    """Vectors of some items: mean of them and their followers' mean, plus themselves.

    ``table[i]`` is the vector of ``items[i]``.
    """
    followers = {item: set() for item in items}
    for sequence in sequences:
        kept = [item for item in sequence if item in followers]
        for before, after in pairwise(kept):
            followers[before].add(after)
    own = {item: table[i] for i, item in enumerate(items)}
    means = {
        item: sum((own[f] for f in followers[item]), np.zeros(table.shape[1]))
        / max(len(followers[item]), 1)
        for item in items
    }
    return {item: (own[item] + means[item]) / 2 + own[item] for item in items}


class Slow:
    """A model's parts, each applied to one unpadded sequence at a time."""

    def __init__(self, model: C2DSR, without: tuple[int, ...] = ()) -> None:
        self.model = model
        sequences = [items for user, items in SEQUENCES.items() if user not in without]
        self.mixed = slow_vectors(
            array(model.mixed_graph.table.weight)[1:], sequences, list(range(1, N_ITEMS))
        )
        self.single = [
            slow_vectors(array(graph.table.weight)[1:], sequences, items_of(domain))
            for domain, graph in enumerate(model.domain_graphs)
        ]

    def cross_states(self, items: list[int]) -> np.ndarray:
        return states_of(self.model.encoder, [self.mixed[item] for item in items])

    def single_states(self, domain: int, items: list[int]) -> np.ndarray:
        vectors = [self.single[domain][item] for item in items]
        return states_of(self.model.domain_encoders[domain], vectors)

    def user(self, history: list[int], domain: int) -> tuple[np.ndarray, np.ndarray]:
        """States that an item of the domain is scored with."""
        own = [item for item in history if domain_of(item) == domain]
        cross = self.cross_states(history)[-1]
        return cross, self.single_states(domain, own)[-1] if own else np.zeros_like(cross)

    def score(self, states: tuple[np.ndarray, ...], item: int) -> float:
        """Sum of the scores that the states (cross-domain, single-domain) give an item."""
        if self.model.output is None:
            vectors = (self.mixed[item], self.single[domain_of(item)][item])
        else:
            vectors = (array(self.model.output.weight)[item],) * 2
        return sum(state @ vector for state, vector in zip(states, vectors, strict=False))

    def term(self, states: tuple[np.ndarray, ...], target: int, user: int) -> float:
        kind = self.model.loss_name
        return loss_term(kind, lambda item: self.score(states, item), user, target)

    def objectives(self, users=tuple(SEQUENCES)) -> float:
        """Sum of the cross-domain and the single-domain objective of some users."""
        cross, single = [], []
        for user, history, target in prefixes():
            if user in users:
                cross.append(self.term((self.cross_states(history)[-1],), target, user))
                if any(domain_of(item) == domain_of(target) for item in history):
                    single.append(self.term(self.user(history, domain_of(target)), target, user))
        assert len(users) < 5 or (len(cross), len(single)) == (16, 13)
        return float(np.mean(cross) + np.mean(single))

    def discriminate(self, domain: int, single: np.ndarray, cross: np.ndarray) -> float:
        bilinear = self.model.discriminators[domain].bilinear
        logit = single @ array(bilinear.weight)[0] @ cross + array(bilinear.bias)[0]
        return 1 / (1 + np.exp(-logit))

    def infomax(self, corrupted: dict[int, list[list[int]]]) -> float:
        """Objective of both domains; ``corrupted[user][domain]`` has that domain's replaced."""
        total, terms = 0.0, 0
        for domain in (0, 1):
            losses = []
            for user, sequence in SEQUENCES.items():
                inputs = sequence[:-1]
                own = [item for item in sequence if domain_of(item) == domain]
                places = [t for t, item in enumerate(inputs) if domain_of(item) != domain]
                if len(own) < 2 or not places:
                    continue
                single = self.single_states(domain, own[:-1]).mean(0)
                real = self.cross_states(inputs)[places].mean(0)
                false = self.cross_states(corrupted[user][domain][:-1])[places].mean(0)
                losses.append(
                    -np.log(self.discriminate(domain, single, real))
                    - np.log(1 - self.discriminate(domain, single, false))
                )
            assert losses
            terms += len(losses)
            total += np.mean(losses)
        assert terms == 6
        return total


def corrupt_by_rule(model: C2DSR) -> dict[int, list[list[int]]]:
    """Let a model replace each item by the next of its domain, and return what that makes."""

    def swap(item: int, domain: int) -> int:
        pool = items_of(domain)
        return pool[(pool.index(item) + 1) % len(pool)] if item in pool else item

    def corrupted(sequence, domain):
        return torch.tensor([[swap(item, domain) for item in row] for row in sequence.tolist()])

    model.corrupted = corrupted
    return {u: [[swap(i, domain) for i in s] for domain in (0, 1)] for u, s in SEQUENCES.items()}


def graph_of(rows: list[list[int]], node_of) -> ItemGraph:
    return ItemGraph(1, 0.5, sequences_of(dict(enumerate(rows))), np.array(node_of)).eval()


def matrix(graph: ItemGraph, *without) -> np.ndarray:
    return graph.propagation(*without).to_dense().detach().numpy()


def test_edges_that_only_some_users_made_can_be_left_out_by_hand() -> None:
    graph = graph_of([[1, 2, 1, 2], [1, 2, 3], [1, 3], [2, 1]], range(4))
    whole = [[0, 0, 0, 0], [0, 0, 0.5, 0.5], [0, 0.5, 0, 0.5], [0, 0, 0, 0]]
    assert np.array_equal(matrix(graph), whole)
    assert np.array_equal(matrix(graph, torch.tensor([0])), whole)  # others made his edges, too
    without_1 = [[0, 0, 0, 0], [0, 0, 0.5, 0.5], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert np.array_equal(matrix(graph, torch.tensor([1])), without_1)
    without_most = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert np.array_equal(matrix(graph, torch.tensor([1, 0])), without_most)
    assert not matrix(graph, torch.arange(4)).any()


@pytest.mark.parametrize("output", ["own", "graphs"])
@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_sequential_objectives_equal_a_loop_over_prefixes(loss, output) -> None:
    model = make(loss=loss, prediction_share=1.0, output_vectors=output)
    assert model.discriminators is None
    expected = Slow(model).objectives()
    assert model.calculate_loss(training_batch()).item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_is_trained_on_the_edges_of_other_users() -> None:
    model = make(prediction_share=1.0, graph_edges="others")
    batch = training_batch(users=(4,))
    expected = Slow(model, without=(4,)).objectives(users=(4,))
    assert model.calculate_loss(batch).item() == pytest.approx(expected, rel=1e-6)
    model.all_edges = True
    assert model.calculate_loss(batch).item() != pytest.approx(expected, rel=1e-3)


def test_infomax_equals_a_loop_over_users() -> None:
    model = make()
    slow = Slow(model)
    corrupted = corrupt_by_rule(model)
    whole = model.calculate_loss(training_batch()).item()
    expected = LAMBDA * slow.objectives() + (1 - LAMBDA) * slow.infomax(corrupted)
    assert whole == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("domain", [0, 1])
def test_corruption_replaces_the_items_of_one_domain_by_its_own(domain) -> None:
    model = make()
    sequence = training_batch()["sequence"].repeat(200, 1)
    torch.manual_seed(0)
    corrupted = model.corrupted(sequence, domain)
    mine = model.item_domain[sequence] == domain
    assert torch.equal(corrupted[~mine], sequence[~mine])
    counts = torch.bincount(corrupted[mine], minlength=N_ITEMS)
    share = counts[items_of(domain)] / mine.sum()
    assert counts[items_of(1 - domain)].sum() == 0
    assert torch.allclose(share, torch.full_like(share, 1 / len(share)), atol=0.03)


@pytest.mark.parametrize("output", ["graphs", "own"])
def test_scores_are_the_sum_of_both_states(output) -> None:
    model = make(output_vectors=output)
    slow = Slow(model)

    def score_of(history, item):
        return slow.score(slow.user(history, domain_of(item)), item)

    check_scores(model, score_of)
