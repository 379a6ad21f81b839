"""A tiny shop with embeddings, and trainers on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import running
import torch
from running import Run


@pytest.fixture(scope="session")
def data_path(tmp_path_factory, small_shop, write_embedded) -> Path:
    """Folder with the dataset ``tiny``: 20 users of 4 to 8 rows, 12 + 14 items, embeddings."""
    return write_embedded(tmp_path_factory.mktemp("data"), small_shop, profiles=True)


@pytest.fixture(scope="session")
def small(data_path) -> Callable[..., dict]:
    """Settings of a small run of a model: ``small("LLMEDT", epochs=1)``."""

    def settings(model="LLMEDT", **changes) -> dict:
        keys = {"data_path": str(data_path), "epochs": 3, "train_batch_size": 16,
                "learning_rate": 0.01}  # fmt: skip
        if model.startswith("LLMEDT"):
            keys |= {"finetune_epochs": 2, "finetune_learning_rate": 0.01}
        if model == "BERT4Rec":  # its loss is 0 / 0 for a batch too small to have any item masked
            keys["train_batch_size"] = 32
        return running.small(model, **{**keys, **changes})

    return settings


@pytest.fixture
def run(small) -> Callable[..., Run]:
    """Make a run of a model: ``run("LLMEDT", epochs=1)``."""

    def make(model="LLMEDT", **changes) -> Run:
        return Run(model, small(model, **changes))

    return make


@pytest.fixture(scope="session")
def same_result() -> Callable[[tuple, tuple], None]:
    """Assert that two results are bit-identical."""

    def check(one: tuple, other: tuple) -> None:
        assert one[0] == other[0]
        assert one[1].keys() == other[1].keys()
        for name, value in one[1].items():
            assert torch.equal(value, other[1][name]), name

    return check
