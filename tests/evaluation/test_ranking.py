"""Ranks, against a slow reference that knows only the raw rows; ties and NaN never win."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_edt.errors import ProtocolError
from recbole_edt.evaluation.ranking import Ranking

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shop(make_shop):
    return make_shop(seed=21, n_users=30)


@pytest.fixture(scope="module", params=[False, True], ids=["raw", "augmented"])
def dataset(request, shop, augmented_shop, write_dataset, load, tmp_path_factory):
    """The same raw shop, also with generated items and inserted rows."""
    folder = write_dataset(tmp_path_factory.mktemp("shop"), augmented_shop(shop))
    return load(folder, augmentation=request.param)


def reference_candidates(shop, dataset, phase, mode) -> list[set[str]]:
    """Candidates of each target as tokens: for ``full`` the slow way, from the raw rows alone."""
    domain_of, out = shop.domain_of(), []
    sampled = dataset.sampled_candidates(phase, mode)
    for at, user in enumerate(dataset.id2token("user_id", dataset.split.users)):
        if sampled is not None:
            out.append(set(dataset.id2token("item_id", sampled[at])))
            continue
        items = shop.raw_sequences()[user]
        stop = len(items) - (1 if phase == "test" else 2)
        mine = {item for item, domain in domain_of.items() if domain == domain_of[items[stop]]}
        out.append(mine - set(items[: stop + 1]))
    return out


PHASES = pytest.mark.parametrize("phase", ["valid", "test"])


def brute_force(scores: np.ndarray, target: int, candidates: list[int]) -> int:
    """Place of the target when everything that does not score below it stands before it."""
    return 1 + sum(not scores[item] < scores[target] for item in candidates)


@pytest.fixture(scope="module")
def ranked(shop, dataset):
    """Rankings of all phases and modes, with their candidates as ids."""
    out = []
    for phase in ("valid", "test"):
        for mode in ("full", "uni5"):
            known = dataset.field2token_id["item_id"]
            candidates = [
                [known[token] for token in sorted(tokens)]
                for tokens in reference_candidates(shop, dataset, phase, mode)
            ]
            out.append((Ranking(dataset, phase, mode, CPU), candidates))
    return out


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    levels=st.sampled_from(
        [[0.0], [0.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, float("nan")],
         [-float("inf"), 0.0, float("inf"), float("nan")]]
    ),
)  # fmt: skip
def test_ranks_equal_a_brute_force_reference(ranked, seed, levels):
    """Scores of few levels: nearly everything ties. No generated item is a candidate."""
    rng = np.random.default_rng(seed)
    for ranking, candidates in ranked:
        n_items = 1 + max(int(ranking.targets.max()), max(max(items) for items in candidates))
        rows = rng.permutation(len(candidates))[: rng.integers(1, len(candidates) + 1)]
        scores = rng.choice(np.array(levels, dtype=np.float32), size=(len(rows), n_items + 9))
        ranks = ranking.ranked(torch.from_numpy(scores), rows)[:, 0].tolist()
        targets = ranking.targets.tolist()
        assert ranks == [
            brute_force(scores[at], targets[row], candidates[row]) for at, row in enumerate(rows)
        ]
        if ranking.candidates is not None:  # by the scores of the candidates alone
            few = np.take_along_axis(scores, ranking.with_target(rows).numpy(), axis=1)
            assert ranking.ranked_candidates(torch.from_numpy(few))[:, 0].tolist() == ranks


@PHASES
def test_lists_hold_the_best_candidates_and_the_target(shop, dataset, phase):
    ranking = Ranking(dataset, phase, "full", CPU, list_length=3)
    rows = np.random.default_rng(0).permutation(len(ranking.targets))
    scores = torch.rand(len(rows), dataset.item_num)
    known, token = dataset.field2token_id["item_id"], dataset.id2token
    ranked = ranking.ranked(scores.clone(), rows).numpy()
    expected = reference_candidates(shop, dataset, phase, "full")
    for at, row in enumerate(rows):
        candidates = expected[row] | {token("item_id", int(ranking.targets[row]))}
        assert ranking.n_candidates[row] == len(candidates)
        best = sorted(candidates, key=lambda name: -scores[at, known[name]])[:3]
        assert token("item_id", ranked[at, 1:]).tolist() == best
    plain = Ranking(dataset, phase, "full", CPU).ranked(scores, rows)
    assert plain.tolist() == ranked[:, :1].tolist()


def test_a_list_longer_than_the_candidates_is_refused(dataset):
    with pytest.raises(ProtocolError, match=r"a list of 99 items .* use a smaller topk"):
        Ranking(dataset, "test", "full", CPU, list_length=99)
