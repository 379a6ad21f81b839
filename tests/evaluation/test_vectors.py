"""Ranks from vectors: those of all scores, without the scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Run

from recbole_edt.evaluation import ranking as ranking_module
from recbole_edt.evaluation.ranking import Ranking
from recbole_edt.evaluation.vectors import vectors_of
from recbole_edt.model import packing, recbole_sasrec
from recbole_edt.model.recbole_sasrec import SASRecVectors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(make_shop, augmented_shop, write_embedded, tmp_path_factory):
    """Folder of a shop with generated items and inserted rows."""
    shop = augmented_shop(make_shop(seed=21, n_users=30))
    return write_embedded(tmp_path_factory.mktemp("shop"), shop)


@pytest.fixture(scope="module")
def rankings(folder, load):
    dataset = load(folder, augmentation=True)
    return [Ranking(dataset, phase, "full", CPU, list_length=2) for phase in ("valid", "test")]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31), largest=st.integers(0, 3), nan=st.booleans(), rows=st.integers(1, 9)
)
def test_ranks_by_vectors_are_the_ranks_of_all_their_products(
    rankings, seed, largest, nan, rows
) -> None:
    """Small whole numbers: products are exact, and most of them tie."""
    rng = np.random.default_rng(seed)
    for ranking in rankings:
        n_items = len(ranking.place)
        users, items = (
            torch.from_numpy(rng.integers(-largest, largest + 1, size=(n, 2)).astype(np.float32))
            for n in (len(ranking.targets), n_items)
        )
        if nan:
            items[rng.integers(1, n_items)] = float("nan")
            users[rng.integers(0, len(users))] = float("nan")
        expected = ranking.ranked(users @ items.T, np.arange(len(users)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranking_module, "_ROWS", rows)
            assert ranking.ranked_by_vectors(users, items).tolist() == expected.tolist()


@pytest.fixture
def evaluated(folder):
    """Make an untrained model whose weights are far from their start, with its trainer."""

    def make(name, **keys) -> Run:
        small = {"hidden_size": 16, "eval_args.mode": "full", "eval_batch_size": 7}
        run = Run(name, {"data_path": str(folder), "use_gpu": False, **small, **keys})
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in run.model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
        return run

    return make


@torch.no_grad()
def from_scores(run: Run):
    """Scores of all items by the model's own method, and the targets' ranks among them."""
    run.model.eval()
    ranking = Ranking(run.test._dataset, "test", "full", CPU)
    scores = torch.empty(len(ranking.targets), len(ranking.place))
    for interaction, rows in run.test.batches():
        scores[torch.from_numpy(rows)] = run.model.full_sort_predict(interaction)
    return scores, ranking.ranked(scores, np.arange(len(scores))).numpy()


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "LLMEDT", "LLMESR", "C2DSR"])
def test_a_trainers_ranks_are_those_of_the_models_own_scores(evaluated, name) -> None:
    it = evaluated(name)
    assert it.trainer.ranked(it.test).tolist() == from_scores(it)[1].tolist()


@pytest.mark.parametrize("steps", [1, 20, 2048])
@pytest.mark.parametrize("keys", [{}, {"hidden_act": "swish", "n_layers": 1}, {"n_heads": 4}])
@torch.no_grad()
def test_products_of_sasrecs_vectors_are_its_own_scores(
    evaluated, keys, steps, monkeypatch
) -> None:
    monkeypatch.setattr(recbole_sasrec, "_STEPS", steps)
    it = evaluated("SASRec", **keys)
    expected, _ = from_scores(it)
    vectors = vectors_of(it.model)
    assert isinstance(vectors, SASRecVectors)
    lengths = set()
    for interaction, rows in it.test.batches():
        for users in vectors.user_vectors(interaction):
            products = users @ vectors.item_vectors().T
            torch.testing.assert_close(products, expected[rows], rtol=1e-4, atol=1e-4)
        lengths.update(interaction["item_length"].tolist())
    assert len(lengths) > 3


def test_sasrec_is_ranked_the_same_where_attention_is_padded(evaluated, monkeypatch) -> None:
    """As on devices that have no attention over tiles."""
    it = evaluated("SASRec")
    monkeypatch.setattr(packing, "_has_tiles", lambda device: False)
    assert it.trainer.ranked(it.test).tolist() == from_scores(it)[1].tolist()


@pytest.mark.parametrize("name", ["SASRec", "C2DSR"])
def test_what_derives_from_a_model_is_scored_by_its_own_method(evaluated, name) -> None:
    it = evaluated(name)

    class Constant(type(it.model)):
        def full_sort_predict(self, interaction):
            return torch.zeros(len(interaction), self.n_items)

    it.model.__class__ = Constant
    assert vectors_of(it.model) is None
    for mode in ("full", "uni1"):
        assert it.trainer.ranked(it.test, mode).min() > 1  # everything ties with the target
