"""Training on RecBole's Trainer, with the plugin's evaluation, safe checkpoints and resuming."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import set_color
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from recbole_edt import distributed
from recbole_edt.data.dataloader import EvaluationLoader
from recbole_edt.errors import CheckpointError, ConfigError, TrainingError
from recbole_edt.evaluation.metrics import metric_names, summarise
from recbole_edt.evaluation.ranking import Ranking
from recbole_edt.evaluation.vectors import Vectors, vectors_of
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.kernels import use_fast_kernels
from recbole_edt.trainer import checkpoint
from recbole_edt.trainer.allocator import keep_freed_memory
from recbole_edt.trainer.averaging import AveragedWeights
from recbole_edt.trainer.lazy_adam import LazyAdam

if TYPE_CHECKING:  # the mixin stands before one of RecBole's trainers, and builds on it
    from recbole.trainer import Trainer as TrainerBehind
else:
    TrainerBehind = object

_SPARSE = 16
"""Candidates are scored one by one where they are fewer than one item in this many."""

_SCORES = 2**27
"""Scores of all items that exist at a time: half a GiB, and as much again while they are ranked."""


class _TimeIsUpError(Exception):
    """Ends RecBole's loop over epochs: it has no other door."""


class CrossDomainMixin(TrainerBehind):
    """What the plugin changes in any of RecBole's trainers.

    Evaluation follows the leak-free protocol (specification, section 3); every epoch draws from
    random numbers of its own, so that a resumed run repeats an unbroken one; checkpoints are plain
    and written atomically. Of several processes each trains on its part of every batch and ranks
    its part of the targets; RecBole's own models are trained in parallel by RecBole's own code.
    """

    stage = 1
    average: AveragedWeights | None
    tensorboard: SummaryWriter
    item_tensor: Any

    def __init__(self, config, model):
        super().__init__(config, model)
        keep_freed_memory()
        use_fast_kernels(config["fast_kernels"])
        self._share_gradients()
        self.saved_model_file = run_file(config)
        self.last_file = run_file(config, "last")
        self.metric_names = metric_names(config["metrics"], config["topk"])
        if self.valid_metric not in self.metric_names:
            self.metric_names.append(self.valid_metric)
        if self.device.type == "cuda":
            torch.set_autocast_dtype("cuda", torch.bfloat16)
        self.rankings: dict[tuple[str, str], Ranking] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.last_ranks: dict[str, np.ndarray] = {}
        self.timing = new_timing()
        self.stages: dict[int, dict[str, Any]] = {}
        self.fingerprint: dict[str, Any] | None = None

    @classmethod
    def check(cls, config, model, dataset) -> None:
        """Refuse the checkpoints that a run would start from, before it writes anything.

        Raises
        ------
        CheckpointError
            If one is damaged, or belongs to another dataset.
        ConfigError
            If there are several processes, and the model trains in one alone.
        """
        check_splits(model)
        path = run_file(config, "last")
        if config["resume"] and Path(path).exists():
            checkpoint.check_dataset(checkpoint.load(path), dataset, path)

    # -- training -------------------------------------------------------------------------------

    def _share_gradients(self) -> None:
        """Let processes share the gradients of the parameters that have some from now on."""
        self.splits_batches = distributed.world_size() > 1 and isinstance(
            self.model, CrossDomainModel
        )
        if self.splits_batches:
            check_splits(self.model)
            self.distributed_model = None  # its hooks first go, then there are others
            self.distributed_model = distributed.data_parallel(self.model, self.device)

    def set_reduce_hook(self):
        """Prepare RecBole's way of sharing gradients; the plugin's models go through a wrapper."""
        if not self.splits_batches:
            super().set_reduce_hook()

    def sync_grad_loss(self):
        """Touch every parameter, as RecBole's way of sharing gradients needs it."""
        return 0 if self.splits_batches else super().sync_grad_loss()

    def _build_optimizer(self, **kwargs):
        optimizer = self._new_optimizer(**kwargs)
        self.average = None
        if self.config["weight_average"]:
            trained = (p for group in optimizer.param_groups for p in group["params"])
            self.average = AveragedWeights(trained, self.config["weight_average"])
            optimizer.register_step_post_hook(self.average.update)
        return optimizer

    def _new_optimizer(self, **kwargs):
        tables = [module for module in self.model.modules() if getattr(module, "sparse", False)]
        lazy = self.learner.lower() == "adam" and not (self.weight_decay or self.clip_grad_norm)
        if tables and lazy and distributed.world_size() == 1:
            params = kwargs.pop("params", self.model.parameters())
            return LazyAdam(params, lr=kwargs.pop("learning_rate", self.learning_rate))
        for table in tables:
            table.sparse = False
        optimizer = super()._build_optimizer(**kwargs)
        return fused(optimizer) if self.device.type == "cpu" else optimizer

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        numbers = [int(self.config["seed"]), self.stage, epoch_idx]
        if distributed.rank():  # what one process drops, another may keep
            numbers.append(distributed.rank())
        draw = np.random.SeedSequence(numbers)
        seed = int(draw.generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)  # RecBole's own masking of sequences
        if hasattr(train_data, "set_epoch"):
            train_data.set_epoch(self.stage * 1_000_000 + epoch_idx)
        else:
            train_data.generator.manual_seed(seed)
        if self.splits_batches:
            loss_func = self.distributed_model
        elif loss_func is None and isinstance(self.model, CrossDomainModel):
            loss_func = self.model.loss_over(train_data)
        start = perf_counter()
        loss = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        if distributed.world_size() > 1:
            parts = torch.tensor(loss, dtype=torch.float64, device=self.device)
            loss = (distributed.all_reduce_sum(parts) / distributed.world_size()).tolist()
            loss = tuple(loss) if isinstance(loss, list) else loss
        self.timing["train_s"] += perf_counter() - start
        self.timing["epochs"] += 1
        return loss

    def _check_nan(self, loss):
        if not torch.isfinite(loss):
            raise TrainingError(
                "the training loss is no longer a finite number: "
                "try a lower learning_rate or another train_batch_size"
            )

    def _valid_epoch(self, valid_data, show_progress=False):
        start = perf_counter()
        with self._averaged():
            out = super()._valid_epoch(valid_data, show_progress)
        self.timing["valid_s"] += perf_counter() - start
        return out

    def fit(
        self,
        train_data,
        valid_data=None,
        verbose=True,
        saved=True,
        show_progress=False,
        callback_fn=None,
    ):
        """Train with early stopping, as RecBole does; afterwards every epoch can be resumed.

        With ``resume`` a run that was killed goes on behind its last whole epoch.

        Returns
        -------
        tuple
            Best validation score and best validation result.
        """
        self._begin(train_data._dataset, saved)
        try:
            self._fit_stage(train_data, valid_data, verbose, saved, show_progress, callback_fn)
        finally:
            self.tensorboard.close()
        return self.best_valid_score, self.best_valid_result

    def _begin(self, dataset, saved: bool) -> None:
        self.fingerprint = checkpoint.dataset_fingerprint(dataset)
        if saved and self.config["resume"]:
            self._resume(dataset)
        elif saved and not distributed.rank():
            # this run's best epochs will not fit where an earlier one stopped
            Path(self.last_file).unlink(missing_ok=True)

    def _fit_stage(self, train_data, valid_data, verbose, saved, show_progress, callback_fn):
        def after_epoch(epoch_idx, score):
            if callback_fn:
                callback_fn(epoch_idx, score)
            if saved:
                self._save_checkpoint(epoch_idx, verbose=False, saved_model_file=self.last_file)
            if self._time_is_up():
                raise _TimeIsUpError

        if self.start_epoch < self.epochs and not self._stopped():
            try:
                super().fit(train_data, valid_data, verbose, saved, show_progress, after_epoch)
            except _TimeIsUpError:
                self.logger.info(f"Training stops after {self.config['time_limit']} s (time_limit)")
        if self.average and not saved:  # nothing will be loaded that has them
            self.average.keep()
        self.stages[self.stage] = {"valid": self.best_valid_result, **self.timing}

    def _stopped(self) -> bool:
        return self.cur_step > self.stopping_step or self._time_is_up()

    def _time_is_up(self) -> bool:
        limit = self.config["time_limit"]
        if limit is None:
            return False
        return distributed.broadcast_flag(self.timing["train_s"] >= limit, self.device)

    # -- checkpoints ----------------------------------------------------------------------------

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if distributed.rank():
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        goes_on = path == self.last_file
        if not goes_on:
            with self._averaged():
                self._write_checkpoint(path, epoch, {})
        else:
            average = self.average.state() if self.average else None
            self._write_checkpoint(path, epoch, {"average": average})
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def _averaged(self):
        """Let the model have its averaged weights meanwhile, where they are kept."""
        return self.average.applied() if self.average else nullcontext()

    def _write_checkpoint(self, path, epoch, more: dict[str, Any]) -> None:
        checkpoint.save(
            path,
            {
                **more,
                "model": self.config["model"],
                "settings": checkpoint.settings(self.config),
                "dataset": self.fingerprint,
                "stage": self.stage,
                "epoch": epoch,
                "cur_step": self.cur_step,
                "best_valid_score": float(self.best_valid_score),
                "best_valid_result": checkpoint.plain(self.best_valid_result),
                "timing": dict(self.timing),
                "stages": checkpoint.plain(self.stages),
                "state_dict": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def _resume(self, dataset) -> None:
        there = Path(self.last_file).exists()
        if distributed.broadcast_flag(there, self.device) != there:
            raise CheckpointError(f"{self.last_file} is not there for every process of the run")
        if not there:
            self.logger.info("Nothing to resume: starting from the beginning")
            return
        content = checkpoint.load(self.last_file, self.device)
        checkpoint.check_dataset(content, dataset, self.last_file)
        self._take(content, self.last_file)
        self.logger.info(f"Resuming stage {self.stage} behind epoch {content['epoch']}")

    def _take(self, content: dict[str, Any], path: str) -> None:
        checkpoint.load_state(self.model, content, path)
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average:
            self.average.begin()
            if content.get("average"):
                self.average.load(content["average"])
        self.start_epoch = content["epoch"] + 1
        self.cur_step = content["cur_step"]
        self.best_valid_score = content["best_valid_score"]
        self.best_valid_result = content["best_valid_result"]
        self.timing = dict(content["timing"])
        self.stages = {int(stage): values for stage, values in content["stages"].items()}

    def resume_checkpoint(self, resume_file):
        """Continue from a checkpoint file (RecBole's name for it)."""
        self._take(checkpoint.load(resume_file, self.device), resume_file)

    def load_best(self, model_file=None) -> None:
        """Load the parameters of the best epoch, or of a given checkpoint."""
        distributed.barrier()  # the first process may still be writing it
        path = model_file or self.saved_model_file
        checkpoint.load_state(self.model, checkpoint.load(path, self.device), path)

    # -- evaluation -----------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: EvaluationLoader,
        load_best_model=True,
        model_file=None,
        show_progress=False,
        mode: str | None = None,
    ):
        """Rank every target among its candidates.

        Parameters
        ----------
        eval_data : EvaluationLoader
            The targets.
        load_best_model, model_file, show_progress
            As in RecBole.
        mode : str, optional
            ``full`` or ``uniN``; by default the configured ``eval_args.mode`` of the phase.

        Returns
        -------
        OrderedDict
            Metrics overall, and per domain as ``<domain>/<metric>``. The same as a nested report
            stands in ``self.reports[phase]``, the ranks in ``self.last_ranks[phase]``.
        """
        if not eval_data:
            return None
        if load_best_model:
            self.load_best(model_file)
        ranks = self.ranks(eval_data, mode, show_progress)
        ranking = self._ranking(eval_data, mode)
        report: dict[str, Any] = {"overall": summarise(ranks, self.metric_names), "domains": {}}
        for domain, name in enumerate(ranking.domains):
            mine = ranks[ranking.target_domains == domain]
            report["domains"][name] = summarise(mine, self.metric_names)
        self.reports[eval_data.phase] = report
        self.last_ranks[eval_data.phase] = ranks
        flat = OrderedDict((k, v) for k, v in report["overall"].items() if k != "n")
        for name, values in report["domains"].items():
            flat.update((f"{name}/{k}", v) for k, v in values.items() if k != "n")
        return flat

    def _ranking(self, eval_data, mode: str | None) -> Ranking:
        phase = eval_data.phase
        mode = mode or self.config["eval_args"]["mode"][phase]
        if (phase, mode) not in self.rankings:
            self.rankings[phase, mode] = Ranking(eval_data._dataset, phase, mode, self.device)
        return self.rankings[phase, mode]

    @torch.no_grad()
    def ranks(
        self, eval_data: EvaluationLoader, mode: str | None = None, show_progress=False
    ) -> np.ndarray:
        """Rank of every target, int64 [n_eval], in the order of ``dataset.split.users``."""
        self.model.eval()
        ranking = self._ranking(eval_data, mode)
        batches: Iterable[Any] = eval_data
        if show_progress:
            label = set_color("Evaluate   ", "pink")
            batches = tqdm(eval_data, total=len(eval_data), ncols=100, desc=label)
        vectors = vectors_of(self.model) if ranking.candidates is None else None
        if vectors is not None:
            return self._ranks_by_vectors(batches, vectors, ranking)
        out = np.zeros(len(ranking.targets), dtype=np.int64)
        self.tot_item_num = eval_data._dataset.item_num
        if self.item_tensor is None:  # RecBole asks for it when a model only scores single items
            self.item_tensor = eval_data._dataset.get_item_feature().to(self.device)
        for interaction, rows in batches:
            with self._autocast():
                out[rows] = self._batch_ranks(interaction.to(self.device), rows, ranking)
        if distributed.world_size() > 1:  # each has ranked some; the others' are zero
            out = distributed.all_reduce_sum(torch.from_numpy(out).to(self.device)).cpu().numpy()
        return out

    def _autocast(self) -> torch.autocast:
        return torch.autocast(device_type=self.device.type, enabled=self.enable_amp)

    def _ranks_by_vectors(self, batches, vectors: Vectors, ranking: Ranking) -> np.ndarray:
        """Encode every user once, then rank; scores are float32 whatever encodes."""
        domains = torch.from_numpy(ranking.target_domains)
        with self._autocast():
            items = vectors.item_vectors().float()
            users = items.new_zeros(len(domains), items.shape[1])
            for interaction, rows in batches:
                at = torch.from_numpy(rows)
                for domain, mine in enumerate(vectors.user_vectors(interaction.to(self.device))):
                    chosen = domains[at] == domain
                    users[at[chosen].to(self.device)] = mine[chosen.to(self.device)].float()
        users = distributed.all_reduce_sum(
            users
        )  # each process has encoded some; the others' are zero
        return ranking.ranks_by_vectors(users, items).cpu().numpy()

    def _batch_ranks(self, interaction, rows: np.ndarray, ranking: Ranking) -> np.ndarray:
        few = ranking.candidates is not None and (
            _SPARSE * ranking.candidates.shape[1] < self.tot_item_num
        )
        if few and hasattr(self.model, "candidate_scores"):
            scores = self.model.candidate_scores(interaction, ranking.with_target(rows))
            return ranking.ranks_of_candidates(scores.float()).cpu().numpy()
        step = max(1, _SCORES // self.tot_item_num)
        parts = [slice(start, start + step) for start in range(0, len(rows), step)]
        return np.concatenate([self._full_ranks(interaction[p], rows[p], ranking) for p in parts])

    def _full_ranks(self, interaction, rows: np.ndarray, ranking: Ranking) -> np.ndarray:
        _, scores, _, _ = self._full_sort_batch_eval((interaction, None, None, None))
        return ranking.ranks(scores.float(), rows).cpu().numpy()


class CrossDomainTrainer(CrossDomainMixin, Trainer):
    """RecBole's Trainer under the plugin's protocol, in one stage."""


def check_splits(model) -> None:
    """Refuse several processes for a model whose losses need a batch as a whole.

    Raises
    ------
    ConfigError
        If there are several and the model is such a one.
    """
    if distributed.world_size() > 1 and isinstance(model, CrossDomainModel):
        if not model.splits_batches:
            raise ConfigError(
                f"{type(model).__name__} trains in one process: its losses contrast what a batch "
                "holds (start it without torchrun)"
            )


def run_file(config, part: str = "") -> str:
    """Path of a run's checkpoint: of its best epoch, or of a part such as ``last``."""
    digest = checkpoint.digest(checkpoint.settings(config))
    name = f"{config['model']}-{config['dataset']}-{config['seed']}-{digest}"
    return f"{config['checkpoint_dir']}/{name}{'.' if part else ''}{part}.pth"


def fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let Adam pass over each parameter once per step and not a dozen times, where torch can."""
    if type(optimizer) is not torch.optim.Adam:
        return optimizer
    groups = [{**group, "fused": True} for group in optimizer.param_groups]
    try:
        return torch.optim.Adam(groups, **{**optimizer.defaults, "fused": True})
    except RuntimeError:  # torch before 2.4 has none for a CPU
        return optimizer


def new_timing() -> dict[str, float]:
    """Return fresh counters of a stage: seconds of training and validation, epochs."""
    return {"train_s": 0.0, "valid_s": 0.0, "epochs": 0}


@lru_cache
def trainer_class(model: type, base: type[Trainer] = Trainer) -> type:
    """Trainer of a model: the one it names, else RecBole's own under the protocol.

    Parameters
    ----------
    model : type
        The model's class; its attribute ``trainer`` is a class or ``module:Class``.
    base : type
        RecBole's trainer for a model that names none.

    Returns
    -------
    type
        A trainer class.
    """
    named = getattr(model, "trainer", None)
    if isinstance(named, str):
        module_name, class_name = named.split(":")
        return getattr(import_module(module_name), class_name)
    if named is not None:
        return named
    if issubclass(base, CrossDomainMixin):
        return base
    if base is Trainer:
        return CrossDomainTrainer
    return type(f"CrossDomain{base.__name__}", (CrossDomainMixin, base), {})
