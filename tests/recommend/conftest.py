"""Trained models, and a shop that grows after their training."""

from __future__ import annotations

from pathlib import Path

import pytest
from growing import OWN, SMALL, Growing

import recbole_edt


@pytest.fixture(scope="session")
def train():
    """Train a small model: ``train(model, folder, data_path, **keys)`` gives its checkpoint."""

    def run(model: str, folder: Path, data_path: Path, **keys) -> Path:
        settings = {**SMALL, **OWN.get(model, {}), "data_path": str(data_path),
                    "checkpoint_dir": str(folder), **keys}  # fmt: skip
        settings = {key: value for key, value in settings.items() if value is not None}
        recbole_edt.run_recbole_edt(model, "tiny", None, settings)
        (path,) = folder.glob(f"{model}-*[!t].pth")
        return path

    return run


@pytest.fixture(scope="session")
def growing(tmp_path_factory, make_shop, write_dataset) -> Growing:
    return Growing(tmp_path_factory.mktemp("growing"), make_shop, write_dataset)
