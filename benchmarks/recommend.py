"""What do recommendations cost: time of one user, of all users, and memory?

An untrained model (its figures do not depend on its weights) is saved, loaded by `Recommender` in a
process of its own, and asked for the ten best of both domains: one user at a time, a history of
nobody known, an explanation, and all users in one call. Seconds of computing do not grow with the
load of the machine. Memory is the resident memory of that process, PyTorch and RecBole included.

    python benchmarks/recommend.py --data_path DIR --datasets cloth_sport cloth_sport_full
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import psutil
import torch
from contest import make_parser

MIB = 2**20
ASKED = 300  # single questions of a kind


def save(model: str, dataset: str, data_path: str, folder: str) -> str:
    """Write the checkpoint of an untrained model, in its last stage; return its path."""
    from train import Entry

    from recbole_edt.trainer.stages import TwoStageTrainer

    text = Path(data_path, dataset, f"{dataset}.item_emb.npy").is_file()
    keys = {"item_embedding": "both" if text else "id"} if model == "LLMEDT" else {}
    entry = Entry(model, dataset, data_path, folder, use_gpu=False, state="ERROR", **keys)
    entry.trainer._begin(entry.train_data._dataset, saved=False)
    if isinstance(entry.trainer, TwoStageTrainer):
        entry.trainer._enter_stage_2()
    entry.trainer._save_checkpoint(0, verbose=False)
    return entry.trainer.saved_model_file


def milliseconds(ask: Callable[[int], object]) -> str:
    """Times of single questions."""
    times, computing = [], []
    for number in range(ASKED + 10):
        start, cpu = perf_counter(), process_time()
        ask(number)
        times.append(1000 * (perf_counter() - start))
        computing.append(1000 * (process_time() - cpu))
    return (
        f"median {np.median(times[10:]):.1f} ms (of computing {np.median(computing[10:]):.1f} ms), "
        f"99% {np.percentile(times[10:], 99):.1f} ms"
    )


def memory() -> str:
    """Resident memory of this process, and the most it had (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    return f"{psutil.Process().memory_info().rss / MIB:,.0f} MiB, peak {peak:,.0f} MiB"


def serve(path: str, threads: int) -> None:
    """Load a checkpoint and print what its answers cost."""
    from recbole_edt import Recommender

    torch.set_num_threads(threads)
    print(f"  libraries       {memory()}", flush=True)
    start = perf_counter()
    recommender = Recommender.load(path, use_gpu=False, state="ERROR")
    print(f"  load            {perf_counter() - start:.1f} s; {memory()}", flush=True)
    data, rng = recommender.data, np.random.default_rng(0)
    users = data.id2token(data.uid_field, recommender.histories.users)
    asked = rng.choice(users, ASKED + 10).tolist()
    items = [recommender.rows(recommender.asked(user))["item_id"].tolist() for user in asked]
    questions = {
        "one user": lambda n: recommender.recommend(asked[n], k=10),
        "a history": lambda n: recommender.recommend(history=items[n], k=10),
        "an explanation": lambda n: recommender.explain(asked[n], items[0][0]),
    }
    for name, ask in questions.items():
        print(f"  {name:<16}{milliseconds(ask)}", flush=True)
    start, cpu = perf_counter(), process_time()
    found = recommender.recommend(k=10)
    seconds, cpu = perf_counter() - start, process_time() - cpu
    print(
        f"  {len(users):,} users in one call: {seconds:.1f} s (of computing {cpu:.1f} s), "
        f"{len(found):,} rows; {memory()}",
        flush=True,
    )


def main() -> None:
    parser = make_parser(__doc__, rounds=1)
    parser.add_argument("--models", nargs="+", default=["LLMEDT", "SASRec"])
    parser.add_argument("--serve", help="a checkpoint, in the process that is measured")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads)
        return
    for dataset in options.datasets:
        for model in options.models:
            with tempfile.TemporaryDirectory() as folder:
                path = save(model, dataset, options.data_path, folder)
                print(f"{dataset}, {model}, {options.threads} threads", flush=True)
                command = [sys.executable, __file__, "--serve", path]
                subprocess.run([*command, f"--threads={options.threads}"], check=True)


if __name__ == "__main__":
    main()
