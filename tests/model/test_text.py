"""Text embeddings: the coordinates they are turned into, in memory and from their file."""

import math

import numpy as np
import pytest
import torch

from recbole_edt.data import embeddings
from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.data.sequences import build_sequences
from recbole_edt.model import text as text_module
from recbole_edt.model.text import (
    Canonical,
    ItemPairs,
    MappedText,
    Standardised,
    canonical_axes,
    changed_text,
    text_change,
)


def test_standardising_hand_computed() -> None:
    text = torch.tensor([[0.0, 0.0], [3.0, 1.0], [-1.0, 1.0], [5.0, 9.0]])
    change = Standardised(text, torch.tensor([False, True, True, False]))
    # centre (1, 1); entries +-2, 0 of the fitted rows: mean square 2
    root = math.sqrt(2)
    expected = torch.tensor([[root, 0], [-root, 0], [4 / root, 8 / root]])
    assert torch.allclose(change(text[1:]), expected)


def test_standardising_survives_a_constant_text() -> None:
    text = torch.tensor([[0.0], [2.0], [2.0]])
    change = Standardised(text, torch.tensor([False, True, True]))
    assert change(text[1:]).tolist() == [[0], [0]]


def test_text_without_pairs_is_whitened_alone() -> None:
    # centred, the fitted rows are (+-2, 0, 0) and (0, +-1, 0): spreads sqrt(2) and sqrt(1/2)
    text = torch.tensor([[0.0, 0, 0], [3, 5, 7], [-1, 5, 7], [1, 6, 7], [1, 4, 7], [3, 6, 7]])
    fitted = torch.tensor([False, True, True, True, True, False])
    change = Canonical(text, fitted, 2, ItemPairs(sequences_of("1", "2"), ITEM_DOMAIN))
    rows = change(text[1:]) * 256 / math.sqrt(2)  # lengths of one on the leading axes
    assert torch.allclose(rows[:4], torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]))
    # (2, 1) is (sqrt(2), sqrt(2)) when both axes have the same spread
    assert torch.allclose(rows[4], torch.tensor([math.sqrt(0.5), math.sqrt(0.5), 0.0]))


def sequences_of(*users: str):
    """One user per string: items are its digits, the inserted ones behind a plus sign."""
    rows = []
    for user, letters in enumerate(users):
        inserted = False
        for letter in letters:
            if letter == "+":
                inserted = True
                continue
            rows.append((user, int(letter), len(rows), inserted))
            inserted = False
    users_, items, places, flags = (np.array(column) for column in zip(*rows, strict=True))
    return build_sequences(users_, items, places, flags.astype(bool), places, len(users))


ITEM_DOMAIN = np.array([-1, 0, 0, 0, 1, 1, 1])


def test_pairs_are_of_one_domain_one_user_and_near() -> None:
    # behind 1 stands 2, two rows on; 4 and 5 are of the other domain; 3 is another user's
    pairs = ItemPairs(sequences_of("1425", "31"), ITEM_DOMAIN).weights.toarray()
    expected = np.zeros((7, 7))
    expected[1, 2] = expected[4, 5] = 0.8
    expected[3, 1] = 1.0
    assert np.allclose(pairs, expected)
    for far, weight in (("144442", 0.8**4), ("1444442", 0)):  # five rows apart, and six
        pairs = ItemPairs(sequences_of(far), ITEM_DOMAIN).weights
        assert pairs[1, 2] == pytest.approx(weight)


def test_pairs_pass_over_inserted_rows() -> None:
    with_inserted, without = sequences_of("1+3+42", "45"), sequences_of("12", "45")
    one, other = (ItemPairs(rows, ITEM_DOMAIN).weights for rows in (with_inserted, without))
    assert np.array_equal(one.toarray(), other.toarray())


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_parts_are_all_pairs(block, monkeypatch) -> None:
    monkeypatch.setattr(text_module, "BLOCK", block)
    pairs = ItemPairs(sequences_of("1236541", "4561", "2132"), ITEM_DOMAIN)
    total = np.zeros((7, 7))
    for first, second, weights in pairs.parts():
        total[np.ix_(first, second)] += weights.toarray()
    assert np.allclose(total, pairs.weights.toarray() / pairs.weights.sum())


def test_of_very_many_pairs_about_so_many_are_drawn_the_same_each_time(monkeypatch) -> None:
    rows = sequences_of(*["123123123", "456456", "132645"] * 30)
    every = ItemPairs(rows, ITEM_DOMAIN).weights.toarray()
    monkeypatch.setattr(text_module, "_MOST_PAIRS", 500)
    some, again = (ItemPairs(rows, ITEM_DOMAIN).weights.toarray() for _ in range(2))
    assert np.array_equal(some, again)
    assert (some <= every + 1e-9).all()
    n = 30 * (8 + 7 + 6 + 5 + 4 + 5 + 4 + 3 + 2 + 1 + 3 + 2 + 1)
    assert some.sum() / every.sum() == pytest.approx(500 / n, abs=0.1)
    assert np.allclose(some / some.sum(), every / every.sum(), atol=0.03)


def test_canonical_axes_hand_computed() -> None:
    within = torch.diag(torch.tensor([3.0, 1, 1], dtype=torch.float64))  # 4, 2, 2 with the ridge
    between = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    # correlations 1 / 4, 1 / 2 and -1 / 2; axes of unit spread e1 / 2, e2 / sqrt 2, e3 / sqrt 2
    axes = canonical_axes(within, between)
    expected = torch.tensor([[0.0, 0.25, 0], [0.5, 0, 0], [0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(axes, expected)


def brute_force(text, fitted, rows, item_domain):
    """Products of all items in canonical coordinates, pair by pair and by ridge regression."""
    centred = (text - text[fitted].mean(0)).astype(np.float64)
    values, axes = np.linalg.eigh(centred[fitted].T @ centred[fitted] / fitted.sum())
    white = centred @ axes / np.sqrt(values)
    size = text.shape[1]
    within, between, total = np.zeros((size, size)), np.zeros((size, size)), 0.0
    for user in range(rows.n_users):
        mine = rows.items[rows.offsets[user] : rows.offsets[user + 1]]
        for i, x in enumerate(mine):
            for gap, y in enumerate(mine[i + 1 : i + 6]):
                if item_domain[x] == item_domain[y]:
                    weight = 0.8**gap
                    total += 2 * weight
                    for a, b in ((x, y), (y, x)):
                        within += weight * np.outer(white[a], white[a])
                        between += weight * np.outer(white[a], white[b])
    inverse = np.linalg.inv(within / total + np.eye(size))
    regression = inverse @ (between / total) @ inverse
    return white @ regression @ white.T, np.linalg.eigvalsh(between)


@pytest.fixture
def shop():
    """Items whose text users follow, so that no correlation is negative, and their sequences."""
    rng = np.random.default_rng(0)
    text = np.concatenate([np.zeros((1, 3)), rng.normal(size=(6, 3))]).astype(np.float32)
    return text, sequences_of("11", "22", "33", "123", "44", "55", "66", "466")


def test_canonical_products_are_the_regression_of_one_text_on_the_other(shop) -> None:
    text, rows = shop
    fitted = np.arange(7) > 0
    expected, between = brute_force(text, fitted, rows, ITEM_DOMAIN)
    assert between.min() > 0  # else the negative part would be missing
    pairs = ItemPairs(rows, ITEM_DOMAIN)
    change = Canonical(torch.from_numpy(text), torch.from_numpy(fitted), 3, pairs)
    ours = change(torch.from_numpy(text[1:])).double()
    ours = ours / torch.linalg.vector_norm(ours, dim=1, keepdim=True)
    expected = expected[1:, 1:] / np.sqrt(np.outer(*2 * [np.diag(expected)[1:]]))
    assert np.allclose((ours @ ours.T).numpy(), expected, atol=1e-5)


def test_canonical_text_survives_a_constant_text(shop) -> None:
    text = torch.ones(7, 3)
    change = Canonical(text, torch.arange(7) > 0, 2, ItemPairs(shop[1], ITEM_DOMAIN))
    assert not change(text[1:]).any()


@pytest.fixture
def text_and_fitted():
    text = torch.randn(11, 5) + 3
    text[0] = 0
    fitted = torch.arange(11) % 4 > 0
    return text, fitted


@pytest.fixture(params=[4, 1000], ids=["blocks", "one block"])
def mapped(request, text_and_fitted, monkeypatch) -> MappedText:
    monkeypatch.setattr(embeddings, "BLOCK", request.param)
    text = text_and_fitted[0].numpy().copy()
    return MappedText(EmbeddingTable(text, np.arange(len(text))))


@pytest.mark.parametrize("start", ["principal", "canonical"])
def test_mapped_text_is_changed_as_text_in_memory_is(text_and_fitted, mapped, start) -> None:
    text, fitted = text_and_fitted
    pairs = ItemPairs(sequences_of("1424", "31", "5635"), np.arange(11) % 2)
    theirs = changed_text(text.clone(), text_change(start, text, fitted, 3, pairs))
    ours = changed_text(mapped, text_change(start, mapped, fitted, 3, pairs))
    assert torch.allclose(ours(torch.arange(11)), theirs, atol=1e-5)
    assert torch.allclose(torch.cat([rows for _, rows in ours.blocks()]), theirs, atol=1e-5)
    assert not theirs[0].any()
