"""What do a million users and half a million items cost: memory, and time per row?

Makes synthetic data sets of several sizes as atomic files (seeded, a block at a time), and with
each of them reads, builds, trains an epoch of both stages of LLM-EDT, ranks every test user among
100 sampled candidates and some among all, in a process of its own. Prints seconds, seconds of
computing, and the peak memory of each phase (resident memory of the process and all its children,
mapped files included), and how well the cost of an epoch fits a line through the sizes. A run above
``--limit`` GiB is stopped.

    python benchmarks/scale.py --scratch DIR                            # 1/8, 1/4, 1/2 and 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time, sleep

import numpy as np
import pandas as pd
import psutil

N_TASTES = 1000
TEXT_SIZE = 384
GIB = 2**30
SPENT = ("seconds", "cpu")


# --- data -----------------------------------------------------------------------------------------


def generate(folder: Path, n_users: int, n_items: int, seed: int = 7, block: int = 50_000) -> None:
    """Write a data set: users with 8 to 12 rows of their one or two tastes, texts of the tastes."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name
    items = np.arange(n_items)
    domain = np.where(items % 2, "right", "left")
    with (folder / f"{name}.item").open("w") as file:
        file.write("item_id:token\tdomain:token\n")
        for start in range(0, n_items, block):
            part = items[start : start + block]
            lines = (f"i{i}\t{d}\n" for i, d in zip(part, domain[part], strict=True))
            file.write("".join(lines))
    rng = np.random.default_rng([seed, 0])
    centres = rng.normal(size=(N_TASTES, TEXT_SIZE)).astype(np.float32) * 0.04
    text = np.lib.format.open_memmap(
        folder / f"{name}.item_emb.npy", mode="w+", dtype=np.float16, shape=(n_items, TEXT_SIZE)
    )
    for start in range(0, n_items, block):
        part = items[start : start + block]
        noise = rng.normal(size=(len(part), TEXT_SIZE)).astype(np.float32) * 0.03
        text[start : start + block] = centres[part // 2 % N_TASTES] + noise
    text.flush()
    del text
    with (folder / f"{name}.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\tposition:float\n")
        for start in range(0, n_users, block):
            rng = np.random.default_rng([seed, 1, start])
            rows(rng, start, min(block, n_users - start), n_items).to_csv(
                file, sep="\t", index=False, header=False
            )


def rows(rng: np.random.Generator, first: int, n_users: int, n_items: int) -> pd.DataFrame:
    """Rows of a block of users; two in ten stray from taste, a third of users has both domains."""
    lengths = rng.integers(8, 13, n_users)
    user = np.repeat(np.arange(n_users), lengths)
    position = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    tastes = rng.integers(0, N_TASTES, (n_users, 2))
    taste = tastes[user, rng.integers(0, 2, len(user))]
    stray = rng.random(len(user)) < 0.2
    taste[stray] = rng.integers(0, N_TASTES, int(stray.sum()))
    side = rng.integers(0, 2, n_users)[user]
    both = (rng.random(n_users) < 1 / 3)[user]
    side = np.where(both, rng.integers(0, 2, len(user)), side)
    per_taste = n_items // (2 * N_TASTES)
    rank = (per_taste * rng.random(len(user)) ** 2).astype(np.int64)  # some items sell better
    item = ((rank * N_TASTES) + taste) * 2 + side
    return pd.DataFrame(
        {
            "user": np.char.add("u", (first + user).astype(str)),
            "item": np.char.add("i", item.astype(str)),
            "timestamp": 1_400_000_000 + position * 86_400,
            "position": position,
        }
    )


# --- the measured process -------------------------------------------------------------------------


@contextmanager
def phase(name: str, **facts) -> Iterator[None]:
    """Tell the supervising process where a phase begins and ends."""
    print(json.dumps({"begin": name}), flush=True)
    start, cpu = perf_counter(), process_time()
    yield
    spent = {"seconds": perf_counter() - start, "cpu": process_time() - cpu}
    print(json.dumps({"end": name, **spent, **facts}), flush=True)


class Some:
    """The first batches of a loader, in its place."""

    def __init__(self, loader, n: int | None) -> None:
        self.loader, self.n = loader, n

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader) if self.n is None else min(self.n, len(self.loader))

    def __iter__(self):
        return islice(iter(self.loader), len(self))

    def batches(self):
        return islice(self.loader.batches(), len(self))


def measured(arguments: argparse.Namespace) -> None:
    """Read, build, train and evaluate one data set, phase by phase."""
    with phase("import"):
        import torch
        from recbole.data import data_preparation
        from recbole.utils import get_model, init_seed

        import recbole_edt  # noqa: F401 - makes RecBole run on this stack
        from recbole_edt.config import EDTConfig
        from recbole_edt.data.dataset import CrossDomainDataset
        from recbole_edt.quick_start import make_rankings
        from recbole_edt.trainer import trainer_class

    folder = Path(arguments.measure)
    overrides = {
        "data_path": str(folder.parent),
        "checkpoint_dir": str(folder.parent / "saved"),
        "use_gpu": False,
        "threads": arguments.threads,
        "item_embedding": arguments.item_embedding,
        "eval_batch_size": 1024,
    }
    config = EDTConfig("LLMEDT", folder.name, None, overrides)
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    init_seed(config["seed"], True)
    with phase("read"):
        data = CrossDomainDataset(config)
    with phase("loaders"):
        train, _, test = data_preparation(config, data)
    with phase("model"):
        network = get_model("LLMEDT")(config, train._dataset)
        trainer = trainer_class(type(network))(config, network)
        trainer.fingerprint = {}
    if not arguments.train_only:
        with phase("candidates"):
            trainer.rankings = make_rankings(config, data)
    facts = {"rows": int((train.stops - train.starts).sum()), "epoch": len(train)}
    steps = Some(train, arguments.steps)
    for stage in (1, 2):
        if stage == 2:
            trainer._enter_stage_2()
        with phase(f"warm {stage}"):
            trainer._train_epoch(Some(train, 3), 1)
        with phase(f"stage {stage}", steps=len(steps), **facts):
            loss = trainer._train_epoch(steps, 0)
        print(json.dumps({"note": f"mean loss {loss / len(steps):.4f}"}), flush=True)
    if arguments.save:
        with phase("checkpoint"):
            trainer._save_checkpoint(0, verbose=False)
        os.remove(trainer.saved_model_file)
    if arguments.train_only:
        return
    with phase("uni100", users=len(test.order)):
        result = trainer.evaluate(test, load_best_model=False)
    print(json.dumps({"note": f"uni100 ndcg@10 {result['ndcg@10']:.4f}"}), flush=True)
    batches = -(-arguments.full_users // test.step)
    some = Some(test, batches)
    ranked = test.order[: batches * test.step]
    ranking = trainer._ranking(some, "full")
    others = np.setdiff1d(np.arange(len(test.order)), ranked)
    ranking.target_domains[others] = -1  # of no domain: not ranked
    with phase("full", users=len(ranked)):
        trainer.ranked(some, "full")


# --- the supervising process ----------------------------------------------------------------------


def tree_memory(root: int) -> int:
    """Resident bytes of a process and its descendants."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def supervise(folder: Path, options: list[str], limit: float) -> dict[str, dict]:
    """Run the measured process; return seconds and peak bytes per phase."""
    command = [sys.executable, __file__, "--measure", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    phases: dict[str, dict] = {}
    now = {"phase": "start"}
    peaks: dict[str, int] = {}
    stopped = []

    def watch() -> None:
        while process.poll() is None:
            bytes_ = tree_memory(process.pid)
            peaks[now["phase"]] = max(peaks.get(now["phase"], 0), bytes_)
            if bytes_ > limit * GIB:
                stopped.append(bytes_)
                process.kill()
            sleep(0.05)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert process.stdout is not None
    for line in process.stdout:
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        if "begin" in event:
            now["phase"] = event["begin"]
        elif "end" in event:
            name = event.pop("end")
            peak = peaks.get(name, 0)
            phases[name] = {**event, "peak": peak}
            print(
                f"  {name:<12}{event['seconds']:10.1f} s (of all threads {event['cpu']:.1f} s)"
                f" {peak / GIB:8.2f} GiB  "
                + "  ".join(f"{k} {v:,.0f}" for k, v in event.items() if k not in SPENT),
                flush=True,
            )
        else:
            print(f"  {'':<12}{event['note']}", flush=True)
    watcher.join()
    if stopped:
        sys.exit(f"stopped: {stopped[0] / GIB:.1f} GiB are more than {limit} GiB")
    if process.wait():
        sys.exit(f"the measured process failed ({process.returncode})")
    return phases


def fit(parts: list[dict], spent: str, label: str) -> None:
    """Print the least-squares line of an epoch's seconds over its rows, and how sizes compare.

    Where some steps of an epoch were made, its seconds are theirs times the epochs' ratio.
    """
    x = np.array([part["rows"] for part in parts], dtype=float)
    y = np.array([part[spent] / part["steps"] * part["epoch"] for part in parts])
    slope, start = np.polyfit(x, y, 1)
    residual = ((y - slope * x - start) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    per_row = y / x
    print(
        f"{label}: {slope * 1e6:.1f} s per million rows + {start:.1f} s, R^2 {1 - residual:.4f}; "
        "seconds per row, each size / the smallest: "
        + ", ".join(f"{ratio:.2f}" for ratio in per_row / per_row[0]),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", default="scale_data")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.125, 0.25, 0.5, 1.0])
    parser.add_argument("--item_embedding", default="both", choices=("text", "id", "both"))
    parser.add_argument("--steps", type=int, help="batches of an epoch; all of them by default")
    parser.add_argument("--full_users", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=16.0, help="GiB")
    parser.add_argument("--train_only", action="store_true", help="rank nobody")
    parser.add_argument("--save", action="store_true", help="write a checkpoint, too")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(arguments)
        return
    options = [
        f"--{key}={getattr(arguments, key)}"
        for key in ("item_embedding", "steps", "full_users", "threads")
        if getattr(arguments, key) is not None
    ] + [f"--{flag}" for flag in ("save", "train_only") if getattr(arguments, flag)]
    done: list[dict[str, dict]] = []
    for fraction in arguments.fractions:
        n_users = int(arguments.users * fraction)
        n_items = int(arguments.items * fraction) // (2 * N_TASTES) * 2 * N_TASTES
        folder = Path(arguments.scratch) / f"synthetic_{n_users}"
        start = perf_counter()
        if not (folder / "complete").exists():
            generate(folder, n_users, n_items)
            (folder / "complete").touch()
        print(
            f"{n_users:,} users, {n_items:,} items, {' '.join(options)} "
            f"(data there after {perf_counter() - start:.1f} s)",
            flush=True,
        )
        done.append(supervise(folder, options, arguments.limit))
        highest = max(part["peak"] for part in done[-1].values())
        print(f"  peak {highest / GIB:.2f} GiB", flush=True)
    if len(done) > 1:
        for stage in ("stage 1", "stage 2"):
            for spent, words in (("seconds", "seconds"), ("cpu", "seconds of computing")):
                fit([part[stage] for part in done], spent, f"an epoch of {stage}, {words}")


if __name__ == "__main__":
    main()
