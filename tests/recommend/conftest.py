"""Trained models, and a shop that grows after their training."""

from __future__ import annotations

from pathlib import Path

import pytest
import running
from growing import Growing

import recbole_edt


@pytest.fixture(scope="session")
def train():
    """Train a small model: ``train(model, folder, data_path, **keys)`` gives its checkpoint."""

    def run(model: str, folder: Path, data_path: Path, **keys) -> Path:
        keys |= {"eval_args.mode": "full", "MAX_ITEM_LIST_LENGTH": 6}
        places = {"data_path": str(data_path), "checkpoint_dir": str(folder)}
        settings = running.small(model, **places, **keys)
        return Path(recbole_edt.run_recbole_edt(model, "tiny", None, settings)["checkpoint"])

    return run


@pytest.fixture(scope="session")
def growing(tmp_path_factory, make_shop, write_dataset) -> Growing:
    return Growing(tmp_path_factory.mktemp("growing"), make_shop, write_dataset)
