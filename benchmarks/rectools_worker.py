"""RecTools' SASRec as an entry of ``benchmarks/train.py``, in a separate Python environment.

RecTools needs an older numpy than this project, so it runs as a child process: it reads training
sequences from the .npz file it is given, then for each line ``N`` on its input trains on the next
N batches and prints the seconds. Its trainer is not used: only its loader, its network,
its loss and its optimiser count.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def make_model(arguments: argparse.Namespace) -> SASRecModel:
    """RecTools' SASRec, built for the training sequences."""
    rows = np.load(arguments.rows)
    table = pd.DataFrame(
        {
            "user_id": rows["users"],
            "item_id": rows["items"],
            "weight": 1.0,
            "datetime": pd.to_datetime(np.arange(len(rows["items"])), unit="s"),
        }
    )
    model = SASRecModel(
        n_blocks=arguments.n_layers,
        n_heads=arguments.n_heads,
        n_factors=arguments.hidden_size,
        dropout_rate=arguments.dropout,
        session_max_len=arguments.length,
        batch_size=arguments.batch_size,
        loss=arguments.loss,
        n_negatives=arguments.n_negatives,
    )
    model._build_model_from_dataset(Dataset.construct(table))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows")
    parser.add_argument("--loss", required=True)
    parser.add_argument("--dropout", type=float, required=True)
    for key in ("n_layers", "n_heads", "hidden_size", "length", "batch_size", "n_negatives"):
        parser.add_argument(f"--{key}", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = make_model(arguments)
    module, loader = model.lightning_model, model.data_preparator.get_dataloader_train()
    optimizer = module.configure_optimizers()
    module.train()
    positions = sum(int((batch["y"] > 0).sum()) for batch in loader)
    print(json.dumps({"batches": len(loader), "positions": positions}), flush=True)
    batches = iter(())
    for line in sys.stdin:
        start = perf_counter()
        for _ in range(int(line)):
            batch = next(batches, None)
            if batch is None:
                batches = iter(loader)
                batch = next(batches)
            optimizer.zero_grad()
            loss = module.training_step(batch, 0)
            loss.backward()
            optimizer.step()
        print(perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
