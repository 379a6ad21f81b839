"""What augmentation costs beside the LLM: seconds and memory over 1, 2, 4, 8 shares of the users.

    python benchmarks/augment.py --data_path DIR --dataset cloth_sport_full

Each size runs in a process of its own, with the embedded defaults. All items are encoded whatever
the share (`encode`), so growth is that of everything else, as a multiple of the smallest size.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from recbole_edt.augment.pipeline import Pipeline
from recbole_edt.augment.settings import AugmentSettings
from recbole_edt.io.files import read_table


def write_part(source: Path, name: str, target: Path, share: float) -> int:
    """Write the rows of a share of the users; all items stay."""
    target.mkdir(parents=True)
    (target / f"{name}.item").write_bytes((source / f"{name}.item").read_bytes())
    frame = read_table(source / f"{name}.inter")
    users = np.unique(frame["user_id"])
    kept = np.random.default_rng(0).permutation(users)[: round(share * len(users))]
    header = (source / f"{name}.inter").open(encoding="utf-8").readline().split()
    frame = frame[frame["user_id"].isin(kept)]
    frame.columns = header
    frame.to_csv(target / f"{name}.inter", sep="\t", index=False)
    return len(frame)


def measure(folder: str, name: str, queue) -> None:
    start = perf_counter()
    pipeline = Pipeline(name, Path(folder) / "raw", Path(folder) / "out", AugmentSettings())
    pipeline.run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    queue.put((perf_counter() - start, peak, pipeline.seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", required=True, type=Path)
    parser.add_argument("--dataset", default="cloth_sport_full")
    parser.add_argument("--sizes", default=[1, 2, 4, 8], type=int, nargs="+", help="eighths")
    options = parser.parse_args()
    source = options.data_path / options.dataset
    fresh = multiprocessing.get_context("spawn")
    print(f"{'users':>5} {'rows':>9} {'seconds':>8} {'peak GiB':>9} {'growth':>7}  by stage")
    smallest = 0.0
    for times in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "raw" / options.dataset
            rows = write_part(source, options.dataset, target, times / 8)
            queue = fresh.Queue()
            process = fresh.Process(target=measure, args=(folder, options.dataset, queue))
            process.start()
            seconds, peak, stages = queue.get()
            process.join()
        rest = seconds - stages["encode"]
        smallest = smallest or rest
        print(
            f"{times:4d}x {rows:9,} {seconds:8.1f} {peak:9.2f} {rest / smallest:7.2f}  "
            f"{json.dumps(stages)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
