"""Training negatives: of the positive's domain, never one of the user's training items."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_edt.data.negatives import NegativeSampler


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampler_of(item_domain: list[int], histories: list[list[int]]) -> NegativeSampler:
    """Domains of the items 1, 2, ... and the training items of the users 0, 1, ..."""
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in histories])])
    return NegativeSampler(
        torch.tensor([-1, *item_domain]),
        torch.from_numpy(offsets.astype(np.int64)),
        torch.tensor([item for items in histories for item in items], dtype=torch.int64),
    )


@st.composite
def worlds(draw):
    """Item domains in random order, and users who own part of each domain (never all of it)."""
    sizes = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    item_domain = draw(st.permutations([0] * sizes[0] + [1] * sizes[1]))
    histories = []
    for _ in range(draw(st.integers(1, 5))):
        history: list[int] = []
        for domain in (0, 1):
            items = [i + 1 for i, d in enumerate(item_domain) if d == domain]
            seen = draw(st.lists(st.sampled_from(items), max_size=12))
            history += [item for item in seen if item != items[0]]
        histories.append(draw(st.permutations(history)))
    if not any(histories):
        histories[0] = [len(item_domain) - item_domain[::-1].index(0)]
    return item_domain, histories


@given(worlds(), st.integers(0, 2**31))
def test_a_negative_is_of_the_positives_domain_and_not_seen(world, seed):
    item_domain, histories = world
    sampler = sampler_of(item_domain, histories)
    users, positives = zip(
        *[(u, item) for u, items in enumerate(histories) for item in items] * 5, strict=True
    )
    negatives = sampler.per_position(
        torch.tensor(users), torch.tensor(positives), generator(seed)
    ).tolist()
    for user, positive, negative in zip(users, positives, negatives, strict=True):
        assert negative > 0
        assert item_domain[negative - 1] == item_domain[positive - 1]
        assert negative not in histories[user]


def test_held_out_items_can_be_negatives():
    """Only training rows are excluded: leaving out more would tell the model what is held out."""
    sampler = sampler_of([0, 0, 0], [[1]])
    drawn = sampler.per_position(torch.zeros(200).long(), torch.ones(200).long(), generator())
    assert set(drawn.tolist()) == {2, 3}


def assert_uniform(counts: np.ndarray) -> None:
    expected, degrees = counts.mean(), len(counts) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * np.sqrt(2 * degrees)


def test_negatives_are_uniform_over_what_is_allowed():
    n_items, n = 40, 60_000
    sampler = sampler_of([0] * n_items + [1] * 7, [[1, 2, 3, 4]])
    drawn = sampler.per_position(torch.zeros(n).long(), torch.ones(n).long(), generator())
    counts = np.bincount(drawn.numpy(), minlength=n_items + 1)[5 : n_items + 1]
    assert counts.sum() == n
    assert_uniform(counts)


@given(worlds(), st.integers(1, 12), st.integers(0, 2**31))
def test_shared_negatives_are_distinct_items_of_one_domain(world, n, seed):
    item_domain, histories = world
    shared = sampler_of(item_domain, histories).shared(n, generator(seed))
    for domain, items in enumerate(shared):
        size = item_domain.count(domain)
        assert len(set(items.tolist())) == len(items) == min(n, size)
        assert all(item_domain[item - 1] == domain for item in items.tolist())


@given(worlds(), st.integers(0, 2**31))
def test_the_seen_mask_marks_exactly_the_users_own_items(world, seed):
    item_domain, histories = world
    sampler = sampler_of(item_domain, histories)
    users = torch.arange(len(histories)).flip(0)
    for shared in sampler.shared(6, generator(seed)):
        mask = sampler.seen_mask(users, shared)
        expected = [[item in histories[user] for item in shared.tolist()] for user in users]
        assert mask.tolist() == expected


def test_a_large_domain_is_sampled_as_evenly_as_a_small_one():
    n_items, n, draws = 400, 20, 3_000  # 20 times as large as the sample: drawn, not permuted
    sampler = sampler_of([0] * n_items + [1] * 7, [[1]])
    source, counts = generator(5), np.zeros(n_items + 1)
    for _ in range(draws):
        items = sampler.shared(n, source)[0]
        assert len(set(items.tolist())) == len(items) == n
        counts[items.numpy()] += 1
    assert_uniform(counts[1:])
