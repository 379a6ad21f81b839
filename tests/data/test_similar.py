"""Items of similar text."""

import numpy as np
import torch

from recbole_edt.data.embeddings import EmbeddingTable
from recbole_edt.data.similar import similar_items


def test_similar_items_are_the_nearest_of_the_domain_by_the_cosine_around_the_mean() -> None:
    rng = np.random.default_rng(1)
    text = rng.normal(size=(40, 6)).astype(np.float32) + 3.0
    text[0] = 0.0
    item_domain = np.array([-1, *rng.integers(0, 2, 39)])
    found = similar_items(EmbeddingTable(text, np.arange(40)), item_domain, 4)
    centred = text - text[1:].mean(0)
    units = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert found[0].tolist() == [0] * 4
    for item in range(1, 40):
        mine = [i for i in range(1, 40) if item_domain[i] == item_domain[item] and i != item]
        nearest = sorted(mine, key=lambda other: -float(units[item] @ units[other]))
        assert found[item].tolist() == nearest[:4]


def test_an_item_stands_in_for_those_that_its_domain_lacks() -> None:
    text = np.eye(5, 4, k=-1, dtype=np.float32)
    item_domain = np.array([-1, 0, 1, 1, 1])
    found = similar_items(EmbeddingTable(text, np.arange(5)), item_domain, 3)
    assert found[1].tolist() == [1, 1, 1]
    assert sorted(found[2].tolist()[:2]) == [3, 4] and found[2, 2] == 2
    assert found.dtype == torch.int64
