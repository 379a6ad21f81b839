"""What does an epoch of fine-tuning (stage 2) cost, in epochs of pre-training (stage 1)?

Both run through the trainer, as in a real run; d = 128, 2 layers, length 50, float32. Stage 2 is
timed against the same set's own stage 1 and against stage 1 on mixed sequences alone. The states of
the frozen backbone are computed in the first epoch of stage 2, which is reported separately. All
entries of a dataset take turns in one process; ratios of medians count, not seconds.

    python benchmarks/finetune.py --data_path DIR --datasets cloth_sport food_kitchen
"""

from __future__ import annotations

import tempfile
from time import perf_counter
from typing import Any

import torch
from contest import make_parser, medians, take_turns
from train import Entry

SETS: dict[str, dict[str, Any]] = {"default": {}, "paper": {"preset": "paper"}}


class Stage:
    """One stage of training, an epoch at a time."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self.epoch = entry, 0

    def seconds_of_epoch(self) -> float:
        start = perf_counter()
        self.entry.trainer._train_epoch(self.entry.train_data, self.epoch)
        self.epoch += 1
        return perf_counter() - start


def second_stage(*arguments: str, **keys) -> Stage:
    """Enter stage 2; its time does not depend on the weights."""
    entry = Entry("LLMEDT", *arguments, **keys)
    entry.trainer._enter_stage_2()
    return Stage(entry)


def measure(name: str, dataset: str, data_path: str, rounds: int) -> None:
    """Print the ratios for one property set and one dataset."""
    with tempfile.TemporaryDirectory() as scratch:
        place, keys = (dataset, data_path, scratch), SETS[name]
        stages = {"own": Stage(Entry("LLMEDTPretrain", *place, **keys))}
        sequences = stages["own"].entry.config["pretrain_sequences"]
        if sequences != "mixed":
            mixed = {**keys, "pretrain_sequences": "mixed"}
            stages["mixed"] = Stage(Entry("LLMEDTPretrain", *place, **mixed))
        stages["second"] = second_stage(*place, **keys)
        first = {stage: stages[stage].seconds_of_epoch() for stage in stages}
        runs = {stage: runner.seconds_of_epoch for stage, runner in stages.items()}
        median = medians(take_turns(rounds, runs))
    print(
        f"{dataset}, {name} set (pretrain_sequences {sequences}), {torch.get_num_threads()} "
        f"threads, {rounds} rounds; a pre-training epoch takes {median['own']:.2f} s"
        + (f", on mixed sequences alone {median['mixed']:.2f} s" if "mixed" in median else "")
    )
    ratios = f"{median['second'] / median['own']:6.3f} of its own pre-training epoch"
    if "mixed" in median:
        ratios += f", {median['second'] / median['mixed']:6.3f} of one on mixed sequences"
    print(
        f"  fine-tuning epoch {ratios}   ({median['second']:.2f} s; the first one "
        f"{first['second']:.2f} s)",
        flush=True,
    )


def main() -> None:
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[*SETS])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for dataset in options.datasets:
        for name in options.sets:
            measure(name, dataset, options.data_path, options.rounds)


if __name__ == "__main__":
    main()
