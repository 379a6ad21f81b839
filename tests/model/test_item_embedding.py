"""Item vectors, what they start as, and lookups that compute each once."""

import math

import numpy as np
import pytest
import torch
from slow_reference import CONFIG, N_ITEMS, SIZE, TinyShop, array, training_batch

from recbole_edt.data import embeddings
from recbole_edt.model import item_embedding
from recbole_edt.model.item_embedding import ItemEmbedding, make_item_embedding, start_reduced_
from recbole_edt.model.llmedt import LLMEDTPretrain
from recbole_edt.model.lookup import ItemLookup
from recbole_edt.model.text import Canonical, ItemPairs, MappedText


def test_reduced_start_hand_computed() -> None:
    table = torch.tensor([[9.0, 9], [3, 3], [3, 3], [3, 3], [9, 9]])
    text = torch.tensor([[0.0, 0, 0], [1, 5, 2], [1, -3, 2], [1, 1, 2], [1, 3, 2]])
    fitted = torch.tensor([False, True, True, False, False])
    items = torch.tensor([False, True, True, True, False])
    start_reduced_(table, text, items, fitted)
    # centre (1, 1, 2), first direction the second entry: 4, -4 and, not fitted, 0. The second
    # direction is empty; the fitted entries' mean square, 8, becomes that of the table, 9
    scale = 3 / math.sqrt(8)
    assert torch.allclose(table[1:4, 0], torch.tensor([4.0, -4, 0]) * scale)
    assert torch.allclose(table[1:4, 1], torch.zeros(3), atol=1e-6)
    assert table[[0, 4]].tolist() == [[9, 9], [9, 9]]


def test_lookup_computes_each_distinct_item_once() -> None:
    embedding = ItemEmbedding("both", 9, 4, torch.randn(9, 6))
    asked = []
    embedding.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].tolist()))
    first, second = torch.tensor([[7, 2, 0], [2, 2, 7]]), torch.tensor([5, 7])
    lookup = ItemLookup(embedding, 9, first, second)
    found = lookup(first), lookup(second)
    assert asked == [[0, 2, 5, 7] + [0] * 60]  # filled up with padding
    assert found[0].shape == (2, 3, 4)
    for items, vectors in zip((first, second), found, strict=True):
        assert torch.allclose(vectors, embedding(items), atol=1e-6)
        assert torch.equal(lookup.columns(1, 3)(items), vectors[..., 1:3])


def test_a_principal_start_is_taken_from_raw_items_alone() -> None:
    shops = (TinyShop(generated_text=text) for text in (1.0, 90.0))
    one, other = (make_item_embedding("text", shop, SIZE, "principal") for shop in shops)
    assert torch.equal(one.adapter.inner.weight, other.adapter.inner.weight)
    assert torch.equal(one.text[:-1], other.text[:-1])
    assert not one.text[0].any()
    assert torch.allclose(one.text[1:-1].mean(0), torch.zeros(one.text.shape[1]), atol=1e-6)
    assert torch.allclose(one.text[1:-1].square().mean(), torch.tensor(1.0))


def test_id_vectors_start_as_the_pca_of_raw_items_text() -> None:
    shop = TinyShop(generated_text=1.0)
    table = array(make_item_embedding("both", shop, SIZE, "principal").table.weight)
    text = shop.item_embeddings()
    centred = text - text[1:-1].mean(0)
    # directions by the singular value decomposition; each row's products are the same whatever
    # signs the directions have
    directions = np.linalg.svd(centred[1:-1], full_matrices=False)[2].T
    components = centred @ directions
    components[0] = 0
    components /= np.sqrt((components[1:-1] ** 2).sum(1).mean())
    width = text.shape[1]
    assert np.allclose(table[:, :width] @ table[:, :width].T, components @ components.T, atol=1e-5)
    assert (np.abs(table[1:, width:]) < 0.2).all()  # more entries than directions: as they were


def test_canonical_starts_are_told_by_training_rows_alone() -> None:
    """Ids beside the text, and text alone with its adapter, start as the same coordinates."""
    shop = TinyShop()
    raw = torch.from_numpy(shop.item_domain >= 0)
    text = torch.from_numpy(shop.item_embeddings())
    pairs = ItemPairs(shop.train_sequences, shop.item_domain)
    assert pairs.weights.nnz
    rows = Canonical(text, raw, SIZE, pairs)(text[1:])
    both = make_item_embedding("both", shop, SIZE)
    length = rows.square().sum(1).mean().sqrt()
    table = both.table.weight[1:, : rows.shape[1]]
    assert torch.allclose(table, rows[:, :SIZE] / length, atol=1e-5)
    assert torch.equal(both.text, text)
    alone = make_item_embedding("text", shop, SIZE)
    assert torch.allclose(alone.text[1:], rows, atol=1e-6)
    width = min(SIZE, text.shape[1] // 2)  # the bottleneck's
    assert torch.allclose(alone(torch.arange(1, N_ITEMS))[:, :width], 16 * rows[:, :width])


@pytest.mark.parametrize("kind", ["text", "both"])
def test_text_and_profiles_too_large_for_memory_change_nothing(kind, monkeypatch) -> None:
    config = {**CONFIG, "item_embedding": kind, "align_weight": 0.5, "loss": "softmax"}
    models = []
    for limit in (embeddings.IN_MEMORY, 0):
        monkeypatch.setattr(embeddings, "IN_MEMORY", limit)
        torch.manual_seed(3)
        models.append(LLMEDTPretrain(config, TinyShop()).eval())
    assert isinstance(models[1].item_embedding.text, MappedText)
    assert isinstance(models[1].profiles, MappedText)
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    losses, vectors = zip(
        *((m.calculate_loss(training_batch()), m.item_vectors()) for m in models), strict=True
    )
    assert torch.allclose(losses[0], losses[1])
    assert torch.allclose(vectors[0], vectors[1], atol=1e-6)


def test_gradients_of_large_tables_alone_are_sparse(monkeypatch) -> None:
    assert not make_item_embedding("id", TinyShop(), SIZE, lazy=True).table.sparse
    monkeypatch.setattr(item_embedding, "_LARGE_TABLE", 4 * N_ITEMS * SIZE - 1)
    assert make_item_embedding("id", TinyShop(), SIZE, lazy=True).table.sparse
    no_text = TinyShop()
    no_text.item_embeddings = None  # not called: ids alone need no text
    assert not make_item_embedding("id", no_text, SIZE).table.sparse
