"""A provider from outside the package: one class, registered, chosen by its name."""

from pathlib import Path

import numpy as np
import pytest

from recbole_edt.augment.encoders import ENCODERS, Encoder, register_encoder
from recbole_edt.augment.generators import GENERATORS, Generated, Generator, register_generator
from recbole_edt.augment.pipeline import Pipeline
from recbole_edt.augment.profilers import PROFILERS, Profiler, Profiles, register_profiler
from recbole_edt.augment.settings import AugmentSettings
from recbole_edt.io.files import read_table
from recbole_edt.settings import validate


@pytest.fixture
def registered(monkeypatch):
    """One of each, which no other test sees."""
    chosen = {"encoder": "lengths", "generator": "first", "profiler": "counts"}
    for table, name in zip((ENCODERS, GENERATORS, PROFILERS), chosen.values(), strict=True):
        monkeypatch.setitem(table, name, None)

    @register_encoder("lengths")
    class Lengths(Encoder):
        def encode(self, texts):
            return np.array([[1, len(text) % 7, len(text) % 5] for text in texts], np.float32)

    @register_generator("first")
    class First(Generator):
        def generate(self, tasks):
            domain = self.space.histories.item_domain
            return Generated([np.flatnonzero(domain == target)[:1] for _, target in tasks])

    @register_profiler("counts")
    class Counts(Profiler):
        def write(self, users):
            return Profiles([f"{sum(user.sizes())} purchases" for user in users])

    return chosen


def test_registered_providers_augment_a_data_set(registered, raw: Path, tmp_path: Path) -> None:
    Pipeline("shop", raw, tmp_path, validate(AugmentSettings, registered | {"min_ratio": 0})).run()
    inter, users = (read_table(tmp_path / "shop" / f"shop.{n}") for n in ("inter", "user"))
    assert (inter["augmented"] == "1").sum() > 20
    assert users["profile"].str.endswith(" purchases").all()
