"""How much faster is a full ranking of all test users here than RecBole's own, of the same model?

The model is RecBole's SASRec, d = 128, 2 layers, length 50, trained for some batches so that its
metrics mean something. Its test users are evaluated by RecBole's stock Trainer with its Collector
and Evaluator, at two sizes of batches (4096 is RecBole's default), and by the plugin. All take
turns in one process; ratios of medians count, not seconds.

RecBole lets a target compete with the items of both domains, the user's history among them, and
breaks ties as topk happens to. So that results can be compared exactly, its evaluation is repeated,
outside the timed part, on scores in which all but the plugin's candidates are masked.

    python benchmarks/evaluate.py --data_path DIR --datasets cloth_sport food_kitchen
"""

from __future__ import annotations

import tempfile
from time import perf_counter

import numpy as np
import torch
from contest import make_parser, medians, take_turns
from recbole.data.dataloader.general_dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from train import Entry

BATCH_SIZES = (4096, 1024)
TRAINING_BATCHES = 100
METRICS = ("hit@10", "ndcg@10")


class StockTrainer(Trainer):
    """RecBole's Trainer; on demand it sees no scores but those of the plugin's candidates.

    Attributes
    ----------
    allowed : Tensor or None
        bool [n_eval, n_items]; the candidates and the target of each row.
    ranks : list of Tensor
        With ``allowed``: the ranks of the targets, ties against them.
    """

    allowed: torch.Tensor | None = None

    def _full_sort_batch_eval(self, batched_data):
        out = super()._full_sort_batch_eval(batched_data)
        if self.allowed is None:
            return out
        interaction, scores, rows, targets = out
        allowed = self.allowed[self.seen : self.seen + len(scores)]
        self.seen += len(scores)
        scores = scores.masked_fill(~allowed, -torch.inf)
        of_targets = scores[rows, targets][:, None]
        self.ranks.append((scores >= of_targets).sum(1))
        return interaction, scores, rows, targets

    def evaluate_allowed(self, loader, allowed: torch.Tensor) -> tuple[dict, np.ndarray]:
        """Return the metrics and the ranks among the allowed items."""
        self.allowed, self.seen, self.ranks = allowed, 0, []
        result = self.evaluate(loader, load_best_model=False)
        self.allowed = None
        return result, torch.cat(self.ranks).numpy()


def allowed_items(data, ranking) -> torch.Tensor:
    """Candidates and target of every test row, from the raw rows: bool [n_eval, n_items]."""
    targets = ranking.targets.numpy()
    offsets, history = data.raw_history(data.split.users, data.split.test_rows)
    raw = (data.item_domain >= 0) & ~data.item_generated
    allowed = raw & (data.item_domain == data.item_domain[targets][:, None])
    allowed[np.repeat(np.arange(len(targets)), np.diff(offsets)), history] = False
    allowed[np.arange(len(targets)), targets] = True
    return torch.from_numpy(allowed)


def measure(dataset: str, data_path: str, rounds: int) -> None:
    """Print the ratios and both results for one dataset."""
    with tempfile.TemporaryDirectory() as scratch:
        keys = {"eval_args.mode": "full", "train_batch_size": 256, "metric_decimal_place": 12}
        ours = Entry("SASRec", dataset, data_path, scratch, **keys)
        ours.seconds_of_batches(TRAINING_BATCHES)
        data = ours.test_data._dataset
        stock = StockTrainer(ours.config, ours.network)
        stock.eval_collector.data_collect(ours.train_data)
        loaders = {}
        for size in BATCH_SIZES:
            loaders[size] = FullSortEvalDataLoader(ours.config, data, None)
            loaders[size].step = size
            loaders[size].set_batch_size(size)

        def stock_seconds(size: int) -> float:
            start = perf_counter()
            stock.evaluate(loaders[size], load_best_model=False)
            return perf_counter() - start

        runs = {f"stock {size}": lambda size=size: stock_seconds(size) for size in BATCH_SIZES}
        runs["ours"] = lambda: ours.seconds_of_evaluation("full")
        take_turns(1, runs)
        median = medians(take_turns(rounds, runs))

        as_published = stock.evaluate(loaders[1024], load_best_model=False)
        ranking = ours.trainer._ranking(ours.test_data, "full")
        allowed = allowed_items(data, ranking)
        masked, ranks = stock.evaluate_allowed(loaders[1024], allowed)
        mine = ours.trainer.reports["test"]["overall"]
    print(
        f"{dataset}: {len(ranks):,} test users, {data.item_num - 1:,} items, "
        f"{torch.get_num_threads()} threads, {rounds} rounds"
    )
    for size in BATCH_SIZES:
        seconds = median[f"stock {size}"]
        print(
            f"  stock evaluation, {size} users a batch / ours   {seconds / median['ours']:6.1f} x"
            f"   (medians {seconds:.2f} s, {median['ours']:.2f} s)"
        )
    for label, result in (
        ("stock, items of both domains", as_published),
        ("stock, our candidates", masked),
        ("ours", mine),
    ):
        print(f"  {label:<30}" + "".join(f"   {m} {result[m]:.10f}" for m in METRICS))
    off = np.abs(ranks - ours.trainer.last_ranks["test"])  # other kernels round sums otherwise
    print(
        f"  users whose rank differs between the last two: {(off > 0).sum()}, "
        f"by {off.max()} at most",
        flush=True,
    )


def main() -> None:
    options = make_parser(__doc__, rounds=5).parse_args()
    torch.set_num_threads(options.threads)
    for dataset in options.datasets:
        measure(dataset, options.data_path, options.rounds)


if __name__ == "__main__":
    main()
