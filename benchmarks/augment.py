"""What augmentation costs beside the LLM: seconds and memory over 1, 2, 4, 8 shares of the users.

    python benchmarks/augment.py --data_path DIR --dataset cloth_sport_full

Each size runs in a process of its own, with the embedded defaults.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from recbole_edt.augment.pipeline import Pipeline, augment_settings
from recbole_edt.files import read_table


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
    pipeline = Pipeline(name, Path(folder) / "raw", Path(folder) / "out", augment_settings({}))
    pipeline.run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    queue.put((perf_counter() - start, peak, pipeline.seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", required=True, type=Path)
    parser.add_argument("--dataset", default="cloth_sport_full")
    options = parser.parse_args()
    source = options.data_path / options.dataset
    fresh = multiprocessing.get_context("spawn")
    print(f"{'share':>6} {'rows':>9} {'seconds':>8} {'peak GiB':>9}  by stage")
    for share in (0.125, 0.25, 0.5, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "raw" / options.dataset
            rows = write_part(source, options.dataset, target, share)
            queue = fresh.Queue()
            process = fresh.Process(target=measure, args=(folder, options.dataset, queue))
            process.start()
            seconds, peak, stages = queue.get()
            process.join()
        print(
            f"{share:6.3f} {rows:9,} {seconds:8.1f} {peak:9.2f}  {json.dumps(stages)}", flush=True
        )


if __name__ == "__main__":
    main()
