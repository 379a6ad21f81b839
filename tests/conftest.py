"""What all tests share: a working folder of their own, small atomic datasets, the real data."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy: the other cores have tests of their own

import numpy as np
import pytest
from forked import Commands, ForkedPopen
from hypothesis import settings

import recbole_edt  # noqa: F401 - patches RecBole before any test imports it
from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.experiment import runs

# A shell that starts the suite in the background makes it ignore Ctrl-C, and what it starts, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("edt", deadline=None, database=None, derandomize=True)
settings.load_profile("edt")

ROOT = Path(__file__).resolve().parents[1]
INTER = ("user_id:token", "item_id:token", "timestamp:float", "position:float", "augmented:token")
ITEM = ("item_id:token", "domain:token", "generated:token", "title:token_seq")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work below ``tmp_path``: RecBole writes ``log/`` and ``saved/`` into the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Run the real commands, each in a process of its own that starts within milliseconds."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork processes")
    with Commands() as started:
        yield started


@pytest.fixture(scope="module")
def forked_runs(commands) -> Iterator[None]:
    """Let the runs of comparisons, searches and experiments start within milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        names = {name: getattr(subprocess, name) for name in subprocess.__all__}
        patch.setattr(runs, "subprocess", SimpleNamespace(**names | {"Popen": ForkedPopen}))
        yield


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a fresh interpreter that imports this checkout, or what lies in ``path``."""

    def run(*arguments, cwd=None, path=ROOT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(path)},
            capture_output=True,
            text=True,
            timeout=180,
        )

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real datasets; tests that need it skip themselves without it."""
    folder = os.environ.get("RECBOLE_EDT_DATA")
    if not folder:
        pytest.skip("set RECBOLE_EDT_DATA to the folder that holds cloth_sport to run this")
    return Path(folder)


@dataclass(frozen=True)
class Shop:
    """The rows of a small dataset, in the order in which its files hold them.

    ``rows`` are (user, item, timestamp, position, augmented), ``items`` (item, domain, generated);
    the last column may be left out of all of them.
    """

    rows: Sequence[tuple]
    items: Sequence[tuple]

    def raw_sequences(self) -> dict[str, list[str]]:
        """Raw items of every user in the order of position: the slow, obvious way."""
        out: dict[str, list[tuple[float, str]]] = {}
        for user, item, _, position, *augmented in self.rows:
            if augmented in ([], ["0"]):
                out.setdefault(user, []).append((float(position), item))
        return {user: [item for _, item in sorted(rows)] for user, rows in out.items()}

    def domain_of(self) -> dict[str, str]:
        """Domain of every item."""
        return {item: domain for item, domain, *_ in self.items}


@pytest.fixture(scope="session")
def make_shop() -> Callable[..., Shop]:
    """Make a random shop: ``make_shop(seed, n_users, n_items, lengths)``.

    Users have between 1 and 9 rows unless ``lengths`` says otherwise; timestamps are noise, so that
    whatever reads them fails; the files' order is random.
    """

    def make(seed=0, n_users=40, n_items=(25, 30), lengths=(1, 9), distinct=False) -> Shop:
        rng = random.Random(seed)
        items = [(f"{d}{i}", d) for d, n in zip(("art", "bike"), n_items, strict=True)
                 for i in range(n)]  # fmt: skip
        rng.shuffle(items)
        rows, fresh = [], iter(items)
        for user in range(n_users):
            for place in range(rng.randint(*lengths)):
                item = next(fresh) if distinct else rng.choice(items)
                rows.append((f"u{user}", item[0], rng.randint(0, 10**9), place))
        rng.shuffle(rows)
        return Shop(rows, items)

    return make


@pytest.fixture(scope="session")
def augmented_shop() -> Callable[[Shop, int], Shop]:
    """Add to a shop what preprocessing would: generated items, and rows among the training rows."""

    def augment(shop: Shop, seed: int = 0) -> Shop:
        rng = random.Random(seed)
        generated = [(f"a{d}{i}", d, "1") for d in ("art", "bike") for i in range(4)]
        names = [item for item, *_ in [*generated, *shop.items]]
        rows = [(*row, "0") for row in shop.rows]
        for user, sequence in shop.raw_sequences().items():
            held_out = 2 if len(sequence) >= 3 else 0
            for place in range(len(sequence) - held_out):
                if rng.random() < 0.5:
                    rows.append((user, rng.choice(names), 0, place + 0.5, "1"))
        rng.shuffle(rows)
        return Shop(rows, [*generated, *((*item, "0") for item in shop.items)])

    return augment


@pytest.fixture(scope="session")
def write_dataset(make_shop) -> Callable[..., Path]:
    """Write atomic files: ``write_dataset(folder, shop)`` gives the folder back, for ``data_path``.

    ``shop`` is a :class:`Shop` (a random one by default); ``rows=`` and ``items=`` replace its
    parts; ``item_emb=`` and ``user_emb=`` are arrays, ``users=`` the lines of ``.user``.
    """

    def write(
        folder: Path, shop: Shop | None = None, *, rows=None, items=None, users=None,
        item_emb=None, user_emb=None, name="tiny",
    ) -> Path:  # fmt: skip
        shop = shop or make_shop()
        rows, items = rows or shop.rows, items or shop.items
        target = Path(folder) / name
        target.mkdir(parents=True, exist_ok=True)
        _write_table(target / f"{name}.inter", INTER, rows)
        _write_table(target / f"{name}.item", ITEM, items)
        if users is not None:
            _write_table(target / f"{name}.user", ("user_id:token",), [(user,) for user in users])
        for what, matrix in (("item", item_emb), ("user", user_emb)):
            if matrix is not None:
                np.save(target / f"{name}.{what}_emb.npy", matrix)
        return Path(folder)

    return write


@pytest.fixture(scope="session")
def write_embedded(write_dataset) -> Callable[..., Path]:
    """Write a shop with random vectors of its items and, if asked for, of its users' profiles."""

    def write(folder: Path, shop: Shop, profiles: bool = False) -> Path:
        rng = np.random.default_rng(0)

        def vectors(n: int) -> np.ndarray:
            return rng.normal(size=(n, 6)).astype(np.float32)

        given = {"item_emb": vectors(len(shop.items))}
        if profiles:
            users = sorted({user for user, *_ in shop.rows}, key=lambda user: int(user[1:]))
            given |= {"users": users, "user_emb": vectors(len(users))}
        return write_dataset(folder, shop, **given)

    return write


@pytest.fixture(scope="session")
def small_shop(make_shop) -> Shop:
    return make_shop(seed=3, n_users=20, n_items=(12, 14), lengths=(4, 8))


@pytest.fixture(scope="session")
def data_path(tmp_path_factory, small_shop, write_embedded) -> str:
    """Folder of a small dataset ``tiny`` that trains within a second."""
    return str(write_embedded(tmp_path_factory.mktemp("data"), small_shop))


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[tuple]) -> None:
    header = columns[: len(rows[0])] if rows else columns
    lines = ["\t".join(map(str, row)) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def config_for() -> Callable[..., EDTConfig]:
    """Make the configuration of a run: ``config_for(data_path, model="LLMEDT", **overrides)``."""

    def make(data_path: Path, model="LLMEDT", dataset="tiny", **overrides) -> EDTConfig:
        settled = {"data_path": str(data_path), "use_gpu": False, "show_progress": False,
                   "state": "ERROR", "train_neg_sample_args": None}  # fmt: skip
        return EDTConfig(model, dataset, None, settled | overrides)

    return make


@pytest.fixture(scope="session")
def load(config_for) -> Callable[..., CrossDomainDataset]:
    """Read a dataset: ``load(data_path, model="LLMEDT", **overrides)``."""

    def read(data_path: Path, model="LLMEDT", **overrides) -> CrossDomainDataset:
        return CrossDomainDataset(config_for(data_path, model, **overrides))

    return read
