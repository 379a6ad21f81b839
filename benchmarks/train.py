"""How much faster is an epoch here than elsewhere, how close to the floor, what costs evaluation?

All entries train on the same training rows and supervise the same positions, d = 128, 2
layers, length 50, batches of 512 sequences (the paper's size), float32; LLM-EDT's stage 1 with its
default loss over mixed sequences:

- stock RecBole SASRec, GRU4Rec and BERT4Rec against stage 1 with the same backbone. The first two
  take every prefix of every sequence by itself, BERT4Rec masked copies of every sequence, with
  RecBole's default losses. A stock epoch is extrapolated from a few of its batches.
- RecTools' SASRec, whole sequences as here: its softmax over the whole catalogue, its sampled
  softmax with 128 negatives of each position's own (2,048 would take 13 GB a batch), and its loss
  of one negative. The last is compared with ``loss: bpr`` here (whose negative is drawn by the
  scores of the whole domain), the others with the default and 2,048 negatives.
  Batch size, heads and dropout are ours; its feed-forward layer is d wide, ours 2 d, and it has no
  text of items, which ours reads. Without ``--rectools_python`` it is left out. To install it:
  ``python -m venv DIR && DIR/bin/pip install "rectools[torch]==0.19.0" torch==2.13.0``
- the floor: see ``benchmarks/floor.py``.

All figures come from one run in which the entries take turns; ratios of medians count.

    python benchmarks/train.py --data_path DIR --datasets food_kitchen cloth_sport
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from contest import make_parser, medians, take_turns
from floor import floor_of_epoch, matrix_flops, measure_rates, sizes_of_batch
from recbole.data import data_preparation
from recbole.utils import get_model

import recbole_edt  # noqa: F401 - makes RecBole run on this stack
from recbole_edt.config import EDTConfig
from recbole_edt.data.dataset import CrossDomainDataset
from recbole_edt.trainer import trainer_class

SHAPE = {"hidden_size": 128, "MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 512}
"""The paper's appendix A.4."""
BLOCKS = {"n_layers": 2, "inner_size": 256}
MIXED = {"pretrain_sequences": "mixed", "n_layers": 2}

STOCK = {
    "SASRec": {"train_batch_size": 2048, **BLOCKS},
    "GRU4Rec": {"train_batch_size": 2048, "num_layers": 2},
    "BERT4Rec": {"train_batch_size": 2048, **BLOCKS},
}
"""RecBole's own models by name, with the keys that make them the same size."""

RECTOOLS = {
    "softmax": ("softmax", 1, "epoch"),
    "128 negatives": ("sampled_softmax", 128, "epoch"),
    "1 negative": ("BCE", 1, "bpr epoch"),
}
"""RecTools' losses: name there, negatives per position, the epoch they are compared with."""


class Entry:
    """A model with its loaders, optimiser and trainer."""

    def __init__(self, model: str, dataset: str, data_path: str, scratch: str, **keys) -> None:
        places = {"data_path": data_path, "checkpoint_dir": scratch}
        self.config = EDTConfig(model, dataset, None, {**places, **SHAPE, **keys})
        data = CrossDomainDataset(self.config)
        self.train_data, _, self.test_data = data_preparation(self.config, data)
        self.network = get_model(model)(self.config, self.train_data._dataset)
        self.trainer = trainer_class(type(self.network))(self.config, self.network)
        self.amp = self.config["enable_amp"]
        self.batches = iter(())

    def step(self, batch) -> None:
        self.trainer.optimizer.zero_grad()
        with torch.autocast("cpu", enabled=self.amp):
            loss = self.network.calculate_loss(batch)
        self.trainer._check_nan(loss)
        loss.backward()
        self.trainer.optimizer.step()

    def seconds_of_batches(self, n: int) -> float:
        """Train on the next n batches; return seconds, loading included."""
        self.network.train()
        start, done = perf_counter(), 0
        while done < n:
            for batch in islice(self.batches, n - done):
                self.step(batch)
                done += 1
            if done < n:
                self.batches = iter(self.train_data)
        return perf_counter() - start

    def seconds_of_epoch(self) -> float:
        self.batches = iter(())
        return self.seconds_of_batches(len(self.train_data))

    def extrapolated(self, n: int) -> float:
        """Seconds of an epoch, from those of the next n batches."""
        return self.seconds_of_batches(n) / n * len(self.train_data)

    def seconds_of_evaluation(self, mode: str) -> float:
        start = perf_counter()
        self.trainer.evaluate(self.test_data, load_best_model=False, mode=mode)
        return perf_counter() - start


class RecTools:
    """RecTools' SASRec in a child process."""

    def __init__(self, python: str, rows: Path, config, loss: str, n_negatives: int) -> None:
        options = {
            **{key: config[key] for key in ("n_layers", "n_heads", "hidden_size", "dropout")},
            "loss": loss,
            "n_negatives": n_negatives,
            "length": config["MAX_ITEM_LIST_LENGTH"],
            "batch_size": config["train_batch_size"],
            "threads": torch.get_num_threads(),
        }
        words = [f"--{key}={value}" for key, value in options.items()]
        worker = Path(__file__).with_name("rectools_worker.py")
        self.process = subprocess.Popen(
            [python, str(worker), str(rows), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = json.loads(self._answer())
        self.n_batches, self.positions = told["batches"], told["positions"]

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("RecTools stopped: its last lines above say why")
        return line

    def extrapolated(self, n: int) -> float:
        """Seconds of an epoch, from those of the next n batches."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return float(self._answer()) / n * self.n_batches


def rectools_entries(python: str | None, ours: Entry, scratch: str) -> dict:
    """RecTools with each of its losses, on our training rows; none without its Python."""
    if python is None:
        print("RecTools is left out: --rectools_python was not given (see the head of this file)")
        return {}
    rows = ours.train_data._dataset.train_sequences
    path = Path(scratch) / "rows.npz"
    np.savez(path, users=rows.users, items=rows.items)
    return {
        name: RecTools(python, path, ours.config, loss, n)
        for name, (loss, n, _) in RECTOOLS.items()
    }


def measure(dataset: str, arguments: argparse.Namespace, scratch: str) -> None:
    """Let all entries take turns on one dataset, and print what they took."""

    def entry(model: str, **keys) -> Entry:
        return Entry(model, dataset, arguments.data_path, scratch, **keys)

    ours = {"epoch": entry("LLMEDTPretrain", **MIXED)}
    ours["bfloat16"] = entry("LLMEDTPretrain", enable_amp=True, **MIXED)
    stock = {name: entry(name, **STOCK[name]) for name in arguments.stock}
    for name in stock:
        if name != "SASRec":
            backbone = name.lower()
            ours[backbone] = entry("LLMEDTPretrain", backbone=backbone, **MIXED)
    rectools = rectools_entries(arguments.rectools_python, ours["epoch"], scratch)
    if rectools:
        ours["bpr epoch"] = entry("LLMEDTPretrain", loss="bpr", **MIXED)
    network, loader = ours["epoch"].network, ours["epoch"].train_data
    sizes = [sizes_of_batch(network, batch) for batch in loader]
    positions = sum(sum(batch.positions) for batch in sizes)
    check_positions(positions, stock, rectools)

    tasks = {name: one.seconds_of_epoch for name, one in ours.items()}
    for name, one in {**stock, **rectools}.items():
        tasks[f"their {name}"] = lambda one=one: one.extrapolated(arguments.stock_batches)
    for mode in ("full", "uni100"):
        tasks[mode] = lambda mode=mode: ours["epoch"].seconds_of_evaluation(mode)
    floors, rates = [], []
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for one in ours.values():  # a first epoch compiles kernels, and caches fill
        one.seconds_of_epoch()
    for one in [*stock.values(), *rectools.values()]:
        one.extrapolated(1)
    ours["epoch"].seconds_of_evaluation("full")
    for _ in range(arguments.rounds):
        for name, seconds in take_turns(1, tasks).items():
            times[name] += seconds
        rates.append(measure_rates(sizes[0], network.encoder.backbone.layers[0].n_heads))
        floors.append(floor_of_epoch(sizes, rates[-1]))
    for one in rectools.values():
        one.process.communicate()  # ends it
    median = medians(times)
    print(
        f"{dataset}: {positions:,} supervised positions, length {network.max_seq_length}, "
        f"{torch.get_num_threads()} threads, {arguments.rounds} rounds; medians"
    )
    print_ratios(median, stock, rectools)
    middle = sorted(range(len(floors)), key=lambda i: floors[i].total)[len(floors) // 2]
    print_floor(floors[middle], rates[middle], sum(map(matrix_flops, sizes)), median["epoch"])


def check_positions(positions: int, stock: dict, rectools: dict) -> None:
    """All must supervise the same positions; RecTools loses what long users have beyond a window.

    RecBole's BERT4Rec hides some items of each of its rows, so that it has positions of its own.
    """
    for name, one in stock.items():
        if name != "BERT4Rec":
            assert len(one.train_data._dataset) == positions, "the same positions"
    for name, one in rectools.items():
        if one.positions != positions:
            print(f"RecTools ({name}) supervises {one.positions:,} of {positions:,} positions")


def print_ratios(median: dict[str, float], stock: dict, rectools: dict) -> None:
    """Print each baseline's epoch, and evaluation, over the epoch of ours beside it."""

    def show(label: str, over: float, under: float) -> None:
        print(f"  {label:58s} {over / under:8.2f} x   ({over:.2f} s, {under:.2f} s)", flush=True)

    for name in stock:
        own = "epoch" if name == "SASRec" else name.lower()
        show(f"stock {name} / stage 1 ({name.lower()})", median[f"their {name}"], median[own])
    for name in rectools:
        own = RECTOOLS[name][2]
        label = f"RecTools SASRec, {name} / stage 1" + (", bpr" if own != "epoch" else "")
        show(label, median[f"their {name}"], median[own])
    show("stage 1 in bfloat16 (enable_amp) / stage 1", median["bfloat16"], median["epoch"])
    for mode in ("full", "uni100"):
        show(f"{mode} ranking of all test users / stage 1", median[mode], median["epoch"])


def print_floor(floor, rates, flops: int, epoch: float) -> None:
    """Print what the floor consists of, and the epoch's share."""
    parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in vars(floor).items())
    print(
        f"  floor / stage 1 {floor.total / epoch:.0%}: {floor.total:.2f} s ({parts}); "
        f"{flops / 1e9:.0f} GFLOP, {rates.attention / 1e9:.0f} GFLOP/s in attention, "
        f"{rates.exponentials / 1e9:.1f} G exponentials/s, {rates.cached / 1e9:.0f} GB/s on "
        f"states, {rates.memory / 1e9:.0f} GB/s on the table"
    )
    for (k, m), speeds in rates.layers.items():
        forward, weight, inputs = (speed / 1e9 for speed in speeds)
        print(
            f"    layer {k} -> {m}: {forward:.0f} GFLOP/s forward, {weight:.0f} gradient of the "
            f"weight, {inputs:.0f} gradient of the inputs",
            flush=True,
        )


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--stock", nargs="*", default=list(STOCK), choices=list(STOCK))
    parser.add_argument("--rectools_python", help="a Python that has RecTools")
    parser.add_argument("--stock_batches", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for dataset in arguments.datasets:
        with tempfile.TemporaryDirectory() as scratch:
            measure(dataset, arguments, scratch)


if __name__ == "__main__":
    main()
