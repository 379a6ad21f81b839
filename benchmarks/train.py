"""How much faster is an epoch here than in stock RecBole, and what does an evaluation cost?

Both train on the same training rows and supervise the same positions: stock RecBole SASRec on
every prefix of every sequence, LLM-EDT's stage 1 on all positions of a sequence in one pass;
d = 128, 2 layers, length 50. A stock epoch is extrapolated from a few of its batches. All figures
come from one process in which the contestants take turns; ratios of medians count, not seconds.

    python benchmarks/train.py --data_path DIR --datasets food_kitchen cloth_sport
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from itertools import islice
from time import perf_counter

import torch
from recbole.utils import get_model

import recbole_edt  # noqa: F401 - makes RecBole run on this stack
from recbole_edt.config import EDTConfig
from recbole_edt.data import CrossDomainDataset
from recbole_edt.quick_start import make_loaders
from recbole_edt.trainer import trainer_class

SHAPE = {"hidden_size": 128, "n_layers": 2, "inner_size": 256, "MAX_ITEM_LIST_LENGTH": 50}


class Contestant:
    """A model with its loaders, optimiser and trainer."""

    def __init__(self, model: str, dataset: str, data_path: str, scratch: str, **keys) -> None:
        overrides = {"data_path": data_path, "checkpoint_dir": scratch, **SHAPE, **keys}
        self.config = EDTConfig(model, dataset, None, overrides)
        data = CrossDomainDataset(self.config)
        self.train_data, _, self.test_data = make_loaders(self.config, data)
        self.network = get_model(model)(self.config, self.train_data._dataset)
        self.trainer = trainer_class(model)(self.config, self.network)
        self.batches = iter(())

    def step(self, batch) -> None:
        self.trainer.optimizer.zero_grad()
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

    def seconds_of_evaluation(self, mode: str) -> float:
        start = perf_counter()
        self.trainer.evaluate(self.test_data, load_best_model=False, mode=mode)
        return perf_counter() - start


def measure(dataset: str, data_path: str, rounds: int, stock_batches: int) -> None:
    """Print the ratios for one dataset."""
    with tempfile.TemporaryDirectory() as scratch:
        same_positions = {"pretrain_sequences": "mixed"}
        ours = Contestant("LLMEDTPretrain", dataset, data_path, scratch, **same_positions)
        stock = Contestant("SASRec", dataset, data_path, scratch, train_batch_size=2048)
        ours.seconds_of_epoch()
        stock.seconds_of_batches(1)
        ours.seconds_of_evaluation("full")
        times: dict[str, list[float]] = {"epoch": [], "stock": [], "full": [], "uni100": []}
        for _ in range(rounds):
            times["epoch"].append(ours.seconds_of_epoch())
            seconds = stock.seconds_of_batches(stock_batches)
            times["stock"].append(seconds / stock_batches * len(stock.train_data))
            times["full"].append(ours.seconds_of_evaluation("full"))
            times["uni100"].append(ours.seconds_of_evaluation("uni100"))
    median = {name: statistics.median(values) for name, values in times.items()}
    rows = len(stock.train_data._dataset)
    supervised = int((ours.train_data.stops - ours.train_data.starts).sum())
    assert rows == supervised, "both must supervise the same positions"
    print(
        f"{dataset}: {rows:,} supervised positions, {ours.network.max_seq_length} long, "
        f"{torch.get_num_threads()} threads, {rounds} rounds\n"
        f"  stock SASRec epoch / LLM-EDT stage-1 epoch   {median['stock'] / median['epoch']:8.1f} x"
        f"   (medians {median['stock']:.1f} s, {median['epoch']:.2f} s)\n"
        f"  full ranking of all test users / epoch       {median['full'] / median['epoch']:8.2f}"
        f"     ({median['full']:.2f} s)\n"
        f"  uni100 ranking of all test users / epoch     {median['uni100'] / median['epoch']:8.2f}"
        f"     ({median['uni100']:.2f} s)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", default="dataset_atomic")
    parser.add_argument("--datasets", nargs="+", default=["cloth_sport"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stock_batches", type=int, default=3)
    arguments = parser.parse_args()
    for dataset in arguments.datasets:
        measure(dataset, arguments.data_path, arguments.rounds, arguments.stock_batches)


if __name__ == "__main__":
    main()
