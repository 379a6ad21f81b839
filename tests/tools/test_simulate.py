"""The simulated shop: same bytes for a seed, the data contract, the imbalance, a signal."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_edt.errors import ConfigError
from tools.simulate import SimulatedShop, main, simulate

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "dataset_atomic" / "cloth_sport"


@pytest.fixture(scope="module")
def shop() -> SimulatedShop:
    return simulate()


def ratios(shop: SimulatedShop) -> np.ndarray:
    """r = |nA - nB| / (nA + nB) of every user."""
    rows = shop.interactions.merge(shop.items[["item_id", "domain"]])
    counts = rows.pivot_table(index="user_id", columns="domain", aggfunc="size", fill_value=0)
    return ((counts["cloth"] - counts["sport"]).abs() / counts.sum(axis="columns")).to_numpy()


def test_command_regenerates_the_bundled_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.simulate", "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=ROOT)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted({path.name for path in BUNDLED.iterdir()} - {"README.md"})
    assert len(made) == 7
    for name in made:
        assert (tmp_path / name).read_bytes() == (BUNDLED / name).read_bytes(), name


@pytest.mark.parametrize("seed", [2026, 7])
def test_interactions_keep_the_contract(seed: int) -> None:
    shop = simulate(400, seed)
    rows = shop.interactions
    by_user = rows.groupby("user_id")
    assert not rows.isna().any(axis=None)
    assert (rows["position"] == by_user.cumcount() + 1).all()
    assert (by_user["timestamp"].diff().dropna() >= 0).all()
    assert not rows.duplicated(["user_id", "item_id"]).any()
    assert set(rows["item_id"]) == set(shop.items["item_id"])
    assert rows.groupby("item_id").size().min() >= 3


def test_most_users_live_in_one_domain(shop: SimulatedShop) -> None:
    imbalance = ratios(shop)
    assert 0.70 <= (imbalance >= 0.9).mean() <= 0.80
    spread = np.histogram(imbalance[imbalance < 0.9], bins=9, range=(0.0, 0.9))[0]
    assert (spread > 0).all()


def hit_rates(shop: SimulatedShop) -> tuple[float, float]:
    """Hit@10 of popularity and of a first-order Markov chain, last item against 100 negatives."""
    items = shop.items
    number = pd.Series(np.arange(len(items)), index=items["item_id"])
    domain = items["domain"].to_numpy()
    users = [number[rows].to_numpy() for _, rows in shop.interactions.groupby("user_id")["item_id"]]
    users = [user for user in users if len(user) >= 3]
    popularity, follows = np.zeros(len(items)), np.zeros((len(items), len(items)))
    for user in users:
        np.add.at(popularity, user[:-2], 1)
        np.add.at(follows, (user[:-3], user[1:-2]), 1)
    rng, hits = np.random.default_rng(0), []
    for user in users:
        target = user[-1]
        others = np.setdiff1d(np.flatnonzero(domain == domain[target]), user)
        negatives = rng.choice(others, 100, replace=False)
        fading = 0.7 ** np.arange(len(user) - 1)[::-1]
        chain = fading @ follows[user[:-1]] + 1e-6 * popularity
        hits.append([(s[negatives] >= s[target]).sum() < 10 for s in (popularity, chain)])
    popular, markov = np.mean(hits, axis=0)
    return popular, markov


def test_sequences_tell_more_than_popularity(shop: SimulatedShop) -> None:
    popular, markov = hit_rates(shop)
    assert 0.2 <= popular <= 0.4
    assert popular + 0.12 <= markov <= 0.8


def test_raw_files_can_be_had_alone(tmp_path: Path) -> None:
    stale = tmp_path / "mine.item_emb.npy"
    stale.write_bytes(b"of other items")
    arguments = ["--output", str(tmp_path), "--users", "200", "--name", "mine", "--raw"]
    assert main(arguments) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["SIMULATED", "mine.inter", "mine.item"]


def test_bad_arguments_exit_with_two_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "new"), "--users", "10"]) == 2
    assert "at least 200 users" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="negative"):
        simulate(200, -1)
