"""The history term: its formula, its calibration, and where it counts."""

import numpy as np
import pytest
import torch
from recbole.utils.case_study import full_sort_scores
from running import Run, small

from recbole_edt import run_recbole_edt
from recbole_edt.errors import ConfigError
from recbole_edt.evaluation import history as history_module
from recbole_edt.evaluation.history import WEIGHTS, HistoryTerm, calibrate
from recbole_edt.evaluation.ranking import Ranking

CPU = torch.device("cpu")
POOLS = [np.array([1, 2, 3]), np.array([4, 5])]


def slow(items, pools, weights, histories, candidate) -> list[float]:
    """One candidate's term for each history, item by item."""
    mean = items[np.concatenate(pools)].mean(0)
    weight = weights[0] if candidate in pools[0] else weights[1]
    out = []
    for history in histories:
        seen = [item for item in history if item]
        total = 0.0
        for age, item in enumerate(reversed(seen)):
            a, b = items[candidate] - mean, items[item] - mean
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            total += 0.8**age * max(0.0, cosine) ** 3
        out.append(weight * total)
    return out


def test_a_hand_computed_term() -> None:
    """Mean (0, 0); of candidate 1, item 2 has cosine 0.6, item 3 -1: 2 (0.8 * 0.6^3 + 0)."""
    items = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [-0.6, -0.8]])
    term = HistoryTerm(items, [np.array([1, 2]), np.array([3, 4])], [2.0, 0.0])
    histories = torch.tensor([[2, 3, 0]])
    got = term.among(histories)[:, [1, 3]]
    torch.testing.assert_close(got, torch.tensor([[2 * 0.8 * 0.216, 0.0]]))


@pytest.mark.parametrize("cosines", [1, 8, 2**22])
def test_terms_are_those_of_a_loop_over_items(cosines, monkeypatch) -> None:
    monkeypatch.setattr(history_module, "_COSINES", cosines)
    rng = np.random.default_rng(4)
    items = rng.normal(size=(6, 3)).astype(np.float32)
    histories = np.array([[1, 4, 1, 5], [3, 0, 0, 0], [0, 0, 0, 0], [2, 2, 4, 0]])
    term = HistoryTerm(torch.from_numpy(items), POOLS, [1.5, 4.0])
    expected = np.array([slow(items, POOLS, [1.5, 4.0], histories, c) for c in range(1, 6)]).T
    seen = torch.from_numpy(histories)
    np.testing.assert_allclose(term.among(seen)[:, 1:], expected, rtol=1e-4)
    for domain, pool in enumerate(POOLS):
        np.testing.assert_allclose(term.among(seen, domain), expected[:, pool - 1], rtol=1e-4)
    each = torch.tensor([[5, 1], [2, 3], [1, 1], [4, 2]])
    wanted = np.take_along_axis(expected, each.numpy() - 1, axis=1)
    np.testing.assert_allclose(term.of_each(seen, each), wanted, rtol=1e-4)


@pytest.fixture(scope="module")
def shop_path(make_shop, write_embedded, tmp_path_factory):
    shop = make_shop(seed=8, n_users=60, n_items=(18, 20), lengths=(4, 9))
    return write_embedded(tmp_path_factory.mktemp("data"), shop)


def test_calibration_takes_the_weight_with_the_best_ndcg_at_50(shop_path, load) -> None:
    data = load(shop_path)
    ranking = Ranking(data, "valid", "full", CPU)
    generator = torch.Generator().manual_seed(1)
    users = torch.randn(len(ranking.targets), 4, generator=generator)
    items = torch.randn(data.item_num, 4, generator=generator)
    histories = torch.randint(1, data.item_num, (len(users), 5), generator=generator)
    gains = []
    for weight in WEIGHTS:
        term = HistoryTerm(items, ranking.pools, [weight, weight])
        scores = users @ items.T + term.among(histories)
        ranks = ranking.ranked(scores, np.arange(len(users)))[:, 0].numpy()
        gain = np.where(ranks <= 50, 1 / np.log2(1 + ranks), 0)
        gains.append([gain[ranking.target_domains == domain].sum() for domain in (0, 1)])
    best = [WEIGHTS[place] for place in np.argmax(gains, axis=0)]
    assert calibrate(ranking, users, items, histories) == best
    assert len({*best, 0.0}) > 1  # not trivially nothing


@pytest.fixture
def run(shop_path, tmp_path):
    def run(model="LLMEDT", **changes):
        places = {"data_path": str(shop_path), "checkpoint_dir": str(tmp_path)}
        keys = {"epochs": 2, "eval_args.mode": "full", "report_modes": ["uni5"], **places}
        return run_recbole_edt(model, "tiny", None, small(model, **keys, **changes))

    return run


@pytest.mark.parametrize("model", ["LLMEDT", "SASRec"])
def test_a_run_that_calibrates_is_no_worse_on_validation(run, model) -> None:
    keys = {"topk": [10, 50]}
    plain, best = run(model, history_weight=0, **keys), run(model, history_weight="auto", **keys)
    assert plain["history_weights"] is None
    assert set(best["history_weights"]) <= set(WEIGHTS)
    for domain, of_plain in plain["valid"]["domains"].items():
        assert best["valid"]["domains"][domain]["ndcg@50"] >= of_plain["ndcg@50"]
    assert any(best["history_weights"])
    assert best["valid"] != plain["valid"]


def test_recboles_scores_of_all_items_hold_no_graph(shop_path, tmp_path) -> None:
    keys = {"data_path": str(shop_path), "checkpoint_dir": str(tmp_path), "history_weight": 4.0}
    run = Run("LLMEDTPretrain", small("LLMEDTPretrain", **keys)).fit(saved=False)
    scores = full_sort_scores(run.test.dataset.inter_feat["user_id"][:2], run.model, run.test)
    assert run.model.history_weights == [4.0, 4.0] and not scores.requires_grad


def test_the_weight_counts_among_samples_as_in_the_whole_domain(run) -> None:
    """A huge weight leaves the term alone; both rankings change."""
    plain, huge = run(history_weight=0), run(history_weight=1e6)
    assert huge["history_weights"] == [1e6, 1e6]
    for mode in ("full", "uni5"):
        assert huge["protocols"][mode]["test"] != plain["protocols"][mode]["test"]


def test_models_without_item_vectors_refuse_it(run) -> None:
    with pytest.raises(ConfigError, match="GRU4Rec has no item vectors for history_weight"):
        run("GRU4Rec", history_weight=4.0)
