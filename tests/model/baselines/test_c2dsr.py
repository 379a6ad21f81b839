"""C2DSR, part by part, against graphs and losses made by plain loops (`slow_reference.py`)."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from recbole.utils import get_model
from slow_reference import (
    MAX_LENGTH,
    N_ITEMS,
    SEQUENCES,
    SHARED,
    TinyShop,
    array,
    build,
    domain_of,
    evaluation_batch,
    items_of,
    negative_of,
    prefixes,
    training_batch,
)

import recbole_edt
from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.data.sequences import build_sequences
from recbole_edt.errors import ConfigError
from recbole_edt.model.baselines.c2dsr import (
    C2DSR,
    Discriminator,
    ItemGraph,
    prototypes,
)
from recbole_edt.trainer import checkpoint

OPTIONS = {
    "output_vectors": "own",
    "graph_edges": "all",
    "graph_layers": 1,
    "prediction_share": 0.7,
}
LAMBDA = 0.7
BOTH = ("sasrec", "gru4rec")


def make(seed: int = 0, shop: TinyShop | None = None, **options) -> C2DSR:
    return build(C2DSR, seed, shop, **{**OPTIONS, **options})


# -- slow references ------------------------------------------------------------------------------


def slow_vectors(table: np.ndarray, sequences, items: list[int], n_layers: int = 1) -> dict:
    """Vectors of some items: mean over the layers plus the vectors themselves, item by item.

    ``table[i]`` is the vector of ``items[i]``.
    """
    followers = {item: set() for item in items}
    for sequence in sequences:
        kept = [item for item in sequence if item in followers]
        for before, after in pairwise(kept):
            followers[before].add(after)
    own = {item: table[i] for i, item in enumerate(items)}
    layers = [own]
    for _ in range(n_layers):
        last = layers[-1]
        layers.append(
            {
                item: sum((last[f] for f in followers[item]), np.zeros(table.shape[1]))
                / max(len(followers[item]), 1)
                for item in items
            }
        )
    return {item: sum(x[item] for x in layers) / len(layers) + own[item] for item in items}


class Slow:
    """A model's parts, each applied to one unpadded sequence at a time."""

    def __init__(self, model: C2DSR, n_layers: int = 1, without: tuple[int, ...] = ()) -> None:
        self.model = model
        sequences = [items for user, items in SEQUENCES.items() if user not in without]
        self.mixed = slow_vectors(
            array(model.mixed_graph.table.weight)[1:], sequences, list(range(1, N_ITEMS)), n_layers
        )
        self.single = [
            slow_vectors(array(graph.table.weight)[1:], sequences, items_of(domain), n_layers)
            for domain, graph in enumerate(model.domain_graphs)
        ]

    def states(self, encoder, vectors: dict, items: list[int]) -> np.ndarray:
        inputs = torch.from_numpy(np.stack([vectors[item] for item in items]))[None]
        valid = torch.ones(1, len(items), dtype=torch.bool)
        positions = encoder.positions.weight[: len(items)]
        return array(encoder.backbone(inputs, positions, valid))[0]

    def cross_states(self, items: list[int]) -> np.ndarray:
        return self.states(self.model.encoder, self.mixed, items)

    def single_states(self, domain: int, items: list[int]) -> np.ndarray:
        return self.states(self.model.domain_encoders[domain], self.single[domain], items)

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

    def softmax(self, states: tuple[np.ndarray, ...], target: int, user: int) -> float:
        rest = [n for n in SHARED[domain_of(target)] if n not in SEQUENCES[user]]
        scores = np.exp([self.score(states, item) for item in [target, *rest]])
        return -np.log(scores[0] / scores.sum())

    def bpr(self, states: tuple[np.ndarray, ...], target: int, user: int) -> float:
        gap = self.score(states, target) - self.score(states, negative_of(user, target))
        return np.log1p(np.exp(-gap))

    def cross_objective(self, term) -> float:
        terms = [term((self.cross_states(h)[-1],), t, user) for user, h, t in prefixes()]
        assert len(terms) == 16
        return float(np.mean(terms))

    def single_objective(self, term) -> float:
        terms = [
            term(self.user(h, domain_of(t)), t, user)
            for user, h, t in prefixes()
            if any(domain_of(item) == domain_of(t) for item in h)
        ]
        assert len(terms) == 13
        return float(np.mean(terms))

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


# -- graphs ---------------------------------------------------------------------------------------


def sequences_of(rows: list[list[int]]):
    triples = [(user, item, step) for user, row in enumerate(rows) for step, item in enumerate(row)]
    users, items, steps = (np.array(column) for column in zip(*triples, strict=True))
    return build_sequences(users, items, steps, np.zeros(len(users), bool), steps, len(rows))


def graph_of(rows: list[list[int]], node_of, **options) -> ItemGraph:
    config = {"hidden_size": 1, "graph_layers": 1, "dropout": 0.5, **options}
    return ItemGraph(config, sequences_of(rows), np.array(node_of)).eval()


def matrix(graph: ItemGraph, *without) -> np.ndarray:
    return graph.propagation(*without).to_dense().detach().numpy()


def test_graph_rows_are_the_distinct_successors_by_hand() -> None:
    graph = graph_of([[1, 2, 1, 3], [1, 2], [3], [2, 1]], range(5))
    expected = np.zeros((5, 5))
    expected[1, [2, 3]] = 0.5  # 1 -> 2 twice, 1 -> 3 once: binary
    expected[2, 1] = 1.0
    assert np.array_equal(matrix(graph), expected)  # directed, and no edge from user to user


def test_domain_graph_has_the_transitions_of_the_domain_alone() -> None:
    rows = [[1, 4, 2], [5, 1, 1], [4, 2, 5]]
    graph = graph_of(rows, [0, 1, 2, 0, 0, 0])
    assert np.array_equal(matrix(graph), [[0, 0, 0], [0, 0.5, 0.5], [0, 0, 0]])
    expected = np.zeros((4, 4))
    expected[2, 3] = 1.0
    assert np.array_equal(matrix(graph_of(rows, [0, 0, 0, 1, 2, 3])), expected)


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


def test_graph_without_transitions_leaves_vectors_as_they_are() -> None:
    items = graph_of([[1], [2]], range(3))
    assert torch.allclose(items(), 1.5 * items.table.weight)


def test_propagation_by_hand() -> None:
    items = graph_of([[1, 2], [1, 3], [2, 3]], range(4), graph_layers=2)
    with torch.no_grad():
        items.table.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [6.0]]))
    # A E = [0, (2 + 6) / 2, 6, 0]; A A E = [0, (6 + 0) / 2, 0, 0]; the mean of three, plus E
    expected = torch.tensor([[0.0], [8 / 3 + 1], [8 / 3 + 2], [2.0 + 6]])
    assert torch.allclose(items(), expected)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_item_vectors_of_all_three_graphs(n_layers) -> None:
    model = make(graph_layers=n_layers)
    slow = Slow(model, n_layers)
    items = torch.arange(1, N_ITEMS)
    mixed = np.stack([slow.mixed[item] for item in items.tolist()])
    assert np.allclose(array(model.inputs()[0](items)), mixed)
    for domain in (0, 1):
        own = items_of(domain)
        vectors = array(model.inputs()[1][domain](torch.tensor(own)))
        assert np.allclose(vectors, np.stack([slow.single[domain][item] for item in own]))
        assert model.domain_graphs[domain].table.num_embeddings == len(own) + 1


def test_graph_dropout_acts_in_training_alone() -> None:
    model = make(dropout=0.5)
    assert torch.equal(model.mixed_graph(), model.mixed_graph())
    model.train()
    assert not torch.equal(model.mixed_graph(), model.mixed_graph())


def test_held_out_rows_are_in_no_graph(make_shop, write_dataset, load, tmp_path) -> None:
    """Another validation and test item for every user: the same graphs."""
    shop = make_shop(seed=5, n_users=30, lengths=(4, 8))
    last = {}
    for user, _, _, place in shop.rows:
        last[user] = max(place, last.get(user, 0))
    domain = shop.domain_of()

    def other(item):
        pool = sorted(name for name in domain if domain[name] == domain[item])
        return pool[pool.index(item) - 1]

    planted = [(u, other(i) if p > last[u] - 2 else i, t, p) for u, i, t, p in shop.rows]
    assert planted != shop.rows
    graphs = []
    for name, rows in (("one", shop.rows), ("two", planted)):
        data = load(write_dataset(tmp_path / name, rows=rows, items=shop.items), "C2DSR")
        model = C2DSR(data.config, data)
        graphs.append([model.mixed_graph, *model.domain_graphs])
    for one, two in zip(*graphs, strict=True):
        assert one.edges.shape[1] > 20
        assert torch.equal(one.edges, two.edges)


# -- sequential objectives ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss", "output"),
    [("sasrec", "softmax", "own"), ("gru4rec", "bpr", "own"), ("sasrec", "softmax", "graphs")],
)
def test_sequential_objectives_equal_a_loop_over_prefixes(name, loss, output) -> None:
    model = make(backbone=name, loss=loss, prediction_share=1.0, output_vectors=output)
    assert model.discriminators is None
    slow = Slow(model)
    term = getattr(slow, loss)
    expected = slow.cross_objective(term) + slow.single_objective(term)
    assert model.calculate_loss(training_batch()).item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_is_trained_on_the_edges_of_other_users() -> None:
    model = make(prediction_share=1.0, graph_edges="others")
    batch = training_batch(users=(4,))
    slow = Slow(model, without=(4,))
    losses = {"cross": [], "single": []}
    for user, history, target in prefixes():
        if user == 4:
            losses["cross"].append(slow.bpr((slow.cross_states(history)[-1],), target, user))
            if any(domain_of(item) == domain_of(target) for item in history):
                state = slow.user(history, domain_of(target))
                losses["single"].append(slow.bpr(state, target, user))
    expected = np.mean(losses["cross"]) + np.mean(losses["single"])
    assert model.calculate_loss(batch).item() == pytest.approx(expected, rel=1e-6)
    model.all_edges = True
    assert model.calculate_loss(batch).item() != pytest.approx(expected, rel=1e-3)


def test_padding_changes_no_loss() -> None:
    model = make()
    corrupt_by_rule(model)
    losses = [model.calculate_loss(training_batch(extra=extra)).item() for extra in (0, 3)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("name", BOTH)
def test_states_have_not_seen_what_comes_later(name) -> None:
    model = make(backbone=name)
    batch = training_batch(users=(1, 4))
    cross, single = states(model, batch)
    rows = {1: SEQUENCES[1], 4: SEQUENCES[4]}
    for step in range(1, 7):
        changed = {u: [*s[:step], *(negative_of(u, i) for i in s[step:])] for u, s in rows.items()}
        other = dict(batch)
        for key, value in training_batch((1, 4), sequences={**SEQUENCES, **changed}).items():
            other[key] = value if key.startswith("sequence") else batch[key]
        assert not torch.equal(other["sequence"], batch["sequence"]) or step > 4
        after_cross, after_single = states(model, other)
        assert torch.allclose(cross[:, :step], after_cross[:, :step], atol=1e-12)
        assert torch.allclose(single[:, :step], after_single[:, :step], atol=1e-12)
    assert not torch.allclose(cross, states(model, {**batch, **later(batch)})[0], atol=1e-3)


def later(batch: dict) -> dict:
    """Sequences whose first item is another."""
    sequence = batch["sequence"].clone()
    sequence[:, 0] = 5
    return {"sequence": sequence}


def states(model: C2DSR, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    sequence = batch["sequence"]
    masked = torch.zeros_like(sequence, dtype=torch.bool)
    mixed, domains = model.inputs()
    cross = model.encoder.before_targets(mixed, sequence, masked)
    return cross.detach(), model.single_states(batch, domains)[0].detach()


# -- infomax objective ----------------------------------------------------------------------------


def test_prototypes_by_hand() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[1.0, 1.0]] * 3])
    where = torch.tensor([[True, True, False], [False, False, False]])
    assert torch.equal(prototypes(states, where), torch.tensor([[2.0, 3.0], [0.0, 0.0]]))


def test_discriminator_by_hand() -> None:
    judge = Discriminator(2)
    assert judge.bilinear.bias.item() == 0.0
    with torch.no_grad():
        judge.bilinear.weight.copy_(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        judge.bilinear.bias.fill_(0.5)
    logit = judge(torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 1.0]]))
    # [1, -1] W = [-2, -2]; times [2, 1] = -6
    assert logit.tolist() == [-5.5]


@pytest.mark.parametrize("name", BOTH)
def test_infomax_equals_a_loop_over_users(name) -> None:
    model = make(backbone=name)
    slow = Slow(model)
    corrupted = corrupt_by_rule(model)
    whole = model.calculate_loss(training_batch()).item()
    predictions = slow.cross_objective(slow.bpr) + slow.single_objective(slow.bpr)
    expected = LAMBDA * predictions + (1 - LAMBDA) * slow.infomax(corrupted)
    assert whole == pytest.approx(expected, rel=1e-6)


def test_infomax_ignores_users_of_one_domain() -> None:
    model = make()
    batch = training_batch(users=(2, 3))
    loss = model.calculate_loss(batch)
    assert loss.item() == pytest.approx(LAMBDA * predictions_alone(model, batch), rel=1e-9)
    loss.backward()  # the discriminators have no gradient, and none is missed


def test_infomax_of_untrained_judges_is_two_log_two_per_domain() -> None:
    model = make()
    with torch.no_grad():
        for parameter in model.discriminators.parameters():
            parameter.zero_()
    batch = training_batch()
    loss = model.calculate_loss(batch).item()
    expected = LAMBDA * predictions_alone(model, batch) + (1 - LAMBDA) * 4 * np.log(2)
    assert loss == pytest.approx(expected, rel=1e-9)


def predictions_alone(model: C2DSR, batch: dict) -> float:
    model.prediction_share, model.discriminators = 1.0, None
    return model.calculate_loss(batch).item()


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


# -- the whole model ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "output"), [("sasrec", "graphs"), ("gru4rec", "own")])
def test_scores_are_the_sum_of_both_states(name, output) -> None:
    model = make(backbone=name, output_vectors=output)
    slow = Slow(model)
    scores = array(model.full_sort_predict(evaluation_batch()))
    for row, history in enumerate(SEQUENCES.values()):
        users = [slow.user(history, domain) for domain in (0, 1)]
        expected = [slow.score(users[domain_of(item)], item) for item in range(1, N_ITEMS)]
        assert np.allclose(scores[row, 1:], expected)


@pytest.mark.parametrize("output", ["own", "graphs"])
@pytest.mark.parametrize("name", BOTH)
def test_gradients_reach_every_parameter(name, output) -> None:
    model = make(backbone=name, loss="softmax", output_vectors=output).train()
    model.calculate_loss(training_batch()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_every_item_of_a_sequence_moves_its_vectors() -> None:
    model = make()
    model.calculate_loss(training_batch()).backward()
    seen = {item for sequence in SEQUENCES.values() for item in sequence[:-1]}
    gradient = model.mixed_graph.table.weight.grad.abs().sum(1)
    assert all(gradient[item] > 0 for item in seen)
    assert gradient[0] == 0


def test_graphs_and_item_numbers_are_not_saved() -> None:
    names = set(make().state_dict())
    assert "mixed_graph.table.weight" in names
    assert not [name for name in names if name.endswith(("edges", "_of"))]


def test_runs_in_lower_precision() -> None:
    model = make(loss="softmax").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(training_batch())
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("key", "value"),
    [("backbone", "bert4rec"), ("loss", "ce"), ("output_vectors", "both"), ("graph_edges", "none")],
)
def test_choices_that_do_not_exist_are_refused(key, value) -> None:
    with pytest.raises(ConfigError, match=key):
        make(**{key: value})


SMALL = {
    "epochs": 1,
    "hidden_size": 16,
    "inner_size": 16,
    "n_negatives": 8,
    "train_batch_size": 8,
    "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
    "eval_args.mode": "uni5",
    "topk": [3],
    "valid_metric": "NDCG@3",
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory, make_shop, write_dataset) -> dict:
    shop = make_shop(seed=3, n_users=20, n_items=(12, 14), lengths=(4, 8))
    return {**SMALL, "data_path": str(write_dataset(tmp_path_factory.mktemp("data"), shop))}


def test_run_trains_and_its_checkpoint_scores_the_same(settings) -> None:
    whole = recbole_edt.run_recbole_edt("C2DSR", "tiny", None, settings)
    # nothing is left to train: the saved best epoch is loaded and tested
    again = recbole_edt.run_recbole_edt("C2DSR", "tiny", None, {**settings, "resume": True})
    assert whole["test"] == again["test"]
    assert whole["test"]["overall"]["n"] == 20


def test_preset_of_the_paper_has_the_parts_of_the_paper(settings) -> None:
    config = EDTConfig("C2DSR", "tiny", None, {**settings, "preset": "paper"})
    model = C2DSR(config, CrossDomainDataset(config))
    assert model.discriminators is not None
    assert model.output is not None
    assert model.all_edges


def test_loaded_weights_give_the_same_scores(settings) -> None:
    config = EDTConfig("C2DSR", "tiny", None, settings)
    data = CrossDomainDataset(config)
    torch.manual_seed(1)
    one, other = (get_model("C2DSR")(config, data).eval() for _ in range(2))
    rows = data.build()[2].inter_feat
    assert not torch.equal(one.full_sort_predict(rows), other.full_sort_predict(rows))
    checkpoint.load_state(other, {"state_dict": one.state_dict()}, "run.pth")
    assert torch.equal(one.full_sort_predict(rows), other.full_sort_predict(rows))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prediction_share", 0, "above 0, up to 1"),
        ("prediction_share", 1.5, "above 0, up to 1"),
        ("graph_layers", 0, "at least 1"),
    ],
)
def test_values_out_of_range_are_refused(settings, key, value, said) -> None:
    with pytest.raises(ConfigError, match=f"{key}.*{said}"):
        EDTConfig("C2DSR", "tiny", None, {**settings, key: value})
