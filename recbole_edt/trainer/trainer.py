"""Training on RecBole's Trainer: repeatable epochs, early stops, checkpoints that resume."""

from __future__ import annotations

import glob
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer, set_color
from torch.utils.tensorboard import SummaryWriter

from recbole_edt import distributed
from recbole_edt.data.known import Known
from recbole_edt.errors import CheckpointError, ConfigError, DependencyError, TrainingError
from recbole_edt.evaluation.vectors import has_vectors
from recbole_edt.io.files import atomic_write
from recbole_edt.io.lock import run_lock
from recbole_edt.log import by_domain, quiet
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.kernels import use_fast_kernels
from recbole_edt.registry import builtin_name, reference
from recbole_edt.threads import Threads
from recbole_edt.trainer import checkpoint, growth
from recbole_edt.trainer.allocator import keep_freed_memory
from recbole_edt.trainer.evaluating import EvaluationMixin
from recbole_edt.trainer.optimizers import OptimizersMixin, check_processes

_NEW_TIMING = {"train_s": 0.0, "valid_s": 0.0, "epochs": 0}  # counters of a stage


class _EarlyStop(Exception):
    """Ends RecBole's loop over epochs, which offers no hook for this."""


class CrossDomainMixin(OptimizersMixin, EvaluationMixin):
    """What the plugin changes in any of RecBole's trainers.

    Every epoch has a seed of its own, so that a resumed run repeats an uninterrupted one.
    """

    stage = 1
    start_key = "start_from"  # names the checkpoint of the model to train on from
    keeps_checkpoint = True  # the last training; False: fit(saved=False)
    tensorboard: SummaryWriter
    logger: Any
    eval_step: int

    def __init__(self, config, model):
        super().__init__(config, model)
        keep_freed_memory()
        use_fast_kernels(config["fast_kernels"])
        self._share_gradients()
        self.eval_step = min(self.eval_step, self.epochs)  # RecBole's trainer of Pop has one epoch
        self.threads = Threads(fixed=bool(config["threads"]))
        self.saved_model_file = checkpoint.run_file(config)
        self.best_file = checkpoint.run_file(config, "best")  # saved_model_file after training
        self.last_file = checkpoint.run_file(config, "last")
        if self.device.type == "cuda":
            torch.set_autocast_dtype("cuda", torch.bfloat16)
        self.timing: dict[str, float] = dict(_NEW_TIMING)
        self._running: set[str] = set()  # of what is timed
        self.is_locked = False  # whoever runs it keeps other runs out
        self.stages: dict[int, dict[str, Any]] = {}
        self.fingerprint: dict[str, Any] | None = None
        self.known: dict[str, Any] | None = None

    @classmethod
    def known_at_start(cls, config) -> Known | None:
        """What the model knows that a run starts from; None for a run that starts anew."""
        path = config[cls.start_key]
        return Known(checkpoint.load(path)["known"], path, keep_new=True) if path else None

    @classmethod
    def check(cls, config, model, dataset) -> None:
        """Check the run before it writes anything.

        Raises
        ------
        CheckpointError
            If the checkpoint to resume or to start from is damaged, or does not fit the dataset.
        ConfigError
            If settings exclude each other, or the model trains in one process alone and there are
            several.
        DependencyError
            If ``log_wandb`` is set, and wandb is not installed.
        """
        check_processes(model)
        if config["history_weight"] and not has_vectors(type(model)):
            raise ConfigError(
                f"{config['model']} has no item vectors for history_weight, or a full_sort_predict "
                "of its own: --history_weight=0"
            )
        for key in ("resume", "time_limit"):
            if config[key] and not config["eval_step"]:
                raise ConfigError(f"{key} acts at validations: eval_step has to be 1 or more")
        if config["log_wandb"] and find_spec("wandb") is None:
            raise DependencyError("log_wandb needs wandb: run `pip install wandb`")
        path = checkpoint.run_file(config, "last")
        if config["resume"] and Path(path).exists():
            checkpoint.check_dataset(checkpoint.load(path), dataset, path)
            return
        of_other_data = glob.escape(path.rpartition("-")[0]) + "-*.last.pth"
        if config["resume"] and (others := glob.glob(of_other_data)):
            raise CheckpointError(
                f"nothing to resume: {others[0]} belongs to other data, if only their texts or "
                "embeddings; --start_from trains on from it on data that have grown, a run "
                "without --resume starts anew"
            )
        if config["start_from"]:
            growth.adopt(model, config["start_from"], dataset)

    # -- stages and early stops -----------------------------------------------------------------

    def fit(
        self,
        train_data,
        valid_data=None,
        verbose=True,
        saved=True,
        show_progress=False,
        callback_fn=None,
    ):
        """Train with early stopping; arguments and result are RecBole's.

        With ``resume`` a killed run continues after its last validated epoch. The checkpoint of an
        earlier training with the same settings and data is replaced at the end.

        Raises
        ------
        DataError
            If another run of the same settings and data is writing into the same folder.
        """
        place = Path(checkpoint.run_file(self.config))
        is_open = saved and not self.is_locked and not distributed.rank()
        with run_lock(place.parent, place.name) if is_open else nullcontext():
            return self._fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)

    def _fit(self, train_data, valid_data, verbose, saved, show_progress, callback_fn):
        if not self.config["eval_step"]:  # as RecBole has it
            valid_data = None
        self.keeps_checkpoint = saved
        self.final_file = self.saved_model_file  # which a user may have set
        self._begin(train_data._dataset, saved)
        self.saved_model_file = self.best_file
        try:
            self._fit_stage(train_data, valid_data, verbose, saved, show_progress, callback_fn)
            if self.config["history_weight"]:
                self._add_history_term(train_data._dataset.domains, valid_data, saved)
            if saved:
                self._publish()
        finally:
            self.saved_model_file = self.final_file
            self.tensorboard.close()
            self.threads.restore()
        return self.best_valid_score, self.best_valid_result

    def _add_history_term(self, domains, valid_data, saved: bool) -> None:
        """Give the trained model the history term, and keep its weights in the checkpoint."""
        if saved:
            self.load_best()
        given = self.config["history_weight"]
        if given == "auto" and not valid_data:
            self.logger.info("no history term: there is no validation to choose its weight")
            return
        weights = self.calibrated(valid_data) if given == "auto" else [float(given)] * 2
        self.model.history_weights = weights
        if saved and not distributed.rank():
            content = checkpoint.load(self.saved_model_file)
            content["history_weights"] = content["other_parameter"]["history_weights"] = weights
            self._write(self.saved_model_file, content)
        self.logger.info(f"weight of the history term: {by_domain(weights, domains)}")

    def _begin(self, dataset, saved: bool) -> None:
        self.fingerprint = checkpoint.dataset_fingerprint(dataset)
        self.known = growth.known(self.model, dataset)
        if path := self.config["start_from"]:
            growth.adopt(self.model, path, dataset)
            self.model.history_weights = None  # validation chooses them anew
            self.average = None
            self.logger.info(f"Starting from {path}")
        resumed = saved and self.config["resume"] and self._resume(dataset)
        # `resume_checkpoint` may have been called before
        goes_on = resumed or self.start_epoch > 0
        if saved and not distributed.rank():
            self._prepare_files(goes_on)

    def _prepare_files(self, goes_on: bool) -> None:
        """Remove what a stopped run of the same name has left, or take up a finished one's best."""
        if not goes_on:
            for path in (self.last_file, self.best_file):
                Path(path).unlink(missing_ok=True)
            self._name_what_is_replaced()
        elif Path(self.final_file).exists() and not Path(self.best_file).exists():
            with atomic_write(self.best_file) as temporary:
                shutil.copyfile(self.final_file, temporary)

    def _name_what_is_replaced(self) -> None:
        with suppress(CheckpointError):  # there is none, or a damaged one
            content = checkpoint.load(self.final_file)
            if others := checkpoint.differences(content["settings"], self.config):
                self.logger.warning(
                    f"{self.final_file} was made with other settings ({others}); the end of this "
                    "run replaces it: --checkpoint_dir=OTHER keeps it"
                )

    def _publish(self) -> None:
        """Give the best epoch the name of the run's checkpoint."""
        distributed.barrier()  # other processes may still be reading it
        if not distributed.rank() and Path(self.best_file).exists():
            os.replace(self.best_file, self.final_file)

    def _fit_stage(self, train_data, valid_data, verbose, saved, show_progress, callback):
        before = dict(self.timing)
        logger = self.logger

        def after_epoch(epoch_idx, score):
            if callback:
                callback(epoch_idx, score)
            if verbose:
                logger.info(self._progress(epoch_idx, score, before))
                before.update(self.timing)
            if saved:  # for resuming: weights and averages
                average = self.average.state() if self.average else None
                self._write(self.last_file, {**self._content(epoch_idx), "average": average})
            if reason := self._reason_to_stop():
                raise _EarlyStop(reason)

        # a resumed run may have reached its end
        if self.start_epoch < self.epochs and not self._reason_to_stop():
            if valid_data:  # else no epoch would be seen
                self.logger = quiet(logger)  # RecBole logs five lines per epoch
            try:
                rest = {"show_progress": show_progress, "callback_fn": after_epoch}
                super().fit(train_data, valid_data, verbose, saved, **rest)
            except _EarlyStop as stop:
                self._add_hparam_to_tensorboard(self.best_valid_score)
                if verbose:
                    logger.info(f"Finished training of stage {self.stage}: {stop}")
            finally:
                self.logger = logger
        if self.average and not saved:  # no checkpoint with them will be loaded
            self.average.exchange()
        self.stages[self.stage] = {"valid": self.best_valid_result, **self.timing}

    def _progress(self, epoch: int, score: float, before: dict[str, float]) -> str:
        """One line about an epoch that was validated; ``before`` is the timing before it."""
        loss = self.train_loss_dict[epoch]
        best = epoch - self.cur_step * self.eval_step
        place = f"epoch {best}" if best >= 0 else "before the first epoch"
        stage = f"stage {self.stage}, " if len(getattr(self.model, "stages", ())) > 1 else ""
        train, valid = (f"{self.timing[p] - before[p]:.1f} s" for p in ("train_s", "valid_s"))
        patience = self.stopping_step + 1 - self.cur_step
        return (
            f"{stage}epoch {epoch} (of {self.epochs}): loss {loss:.4g} ({train}), validation "
            f"{self.valid_metric} {score:.4f} ({valid}), best {self.best_valid_score:.4f} "
            f"({place}); early stop after {patience} more below the best"
        )

    def _reason_to_stop(self) -> str | None:
        """Decide on an early stop: before a stage's first epoch, and after each validation.

        RecBole's ``early_stopping`` counts in ``cur_step`` the consecutive validations below the
        best; a tie is a new best. RecBole reads its own flag to stop after the callback that asks
        this method, which therefore always decides first.
        """
        if self.cur_step > self.stopping_step:
            return f"{self.cur_step} validations below the best {self.valid_metric} (stopping_step)"
        limit = self.config["time_limit"]
        if limit is not None:
            if distributed.broadcast_flag(self.timing["train_s"] >= limit, self.device):
                return f"{limit} s are over (time_limit)"
        return None

    def _begin_stage(self, stage: int) -> None:
        """Start counting epochs, and the curves of a further stage, anew."""
        self.stage = stage
        self.average = None
        self.start_epoch = self.cur_step = 0
        self.timing = dict(_NEW_TIMING)
        self.tensorboard.close()  # its steps are epochs
        folder = self.tensorboard.log_dir.partition("/stage")[0]
        self.tensorboard = SummaryWriter(f"{folder}/stage{stage}")
        logger: Any = self.wandblogger
        logger.log_metrics = lambda metrics, head: type(logger).log_metrics(
            logger, metrics, f"stage{stage}/{head}"
        )

    # -- one epoch ------------------------------------------------------------------------------

    @classmethod
    def below(cls, own: Any) -> type:
        """Class of a user's own trainer over this one, which is what ``super()`` calls.

        Its epochs and validations are prepared and timed as any, without a ``super()`` too.
        """

        class Own(own, cls):  # type: ignore[misc, valid-type]
            def _train_epoch(self, train_data, epoch_idx, *args, **kwargs):
                with self._epoch(train_data, epoch_idx):
                    return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)

            def _valid_epoch(self, *args, **kwargs):
                with self._validation():
                    return super()._valid_epoch(*args, **kwargs)

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(Own, name, getattr(own, name))
        return Own

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        with self._epoch(train_data, epoch_idx):
            if self.splits_batches:
                self.distributed_model.module.loss = self.model.loss_over(train_data)
                loss_func = self.distributed_model
            elif loss_func is None and isinstance(self.model, CrossDomainModel):
                loss_func = self.model.loss_over(train_data)
            loss = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
            if distributed.world_size() > 1:
                parts = torch.tensor(loss, dtype=torch.float64, device=self.device)
                mean = distributed.all_reduce_sum(parts) / distributed.world_size()
                loss = tuple(mean.tolist()) if isinstance(loss, tuple) else mean.item()
        return loss

    @contextmanager
    def _epoch(self, train_data, epoch_idx: int) -> Iterator[None]:
        """Prepare and time the training of an epoch; within one, do nothing."""
        if "train_s" in self._running:
            yield
            return
        self.threads.choose()
        self._seed_epoch(train_data, epoch_idx)
        self._follow_optimizers()
        self.timing["epochs"] += 1
        with self._timed("train_s"):
            yield

    @contextmanager
    def _validation(self) -> Iterator[None]:
        """Validate with averaged weights, and time it; within a validation, do nothing."""
        if "valid_s" in self._running:
            yield
            return
        with self._timed("valid_s"), self._averaged():
            yield

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Time a part of an epoch."""
        self._running.add(part)
        start = perf_counter()
        try:
            yield
        finally:
            self._running.remove(part)
        self.timing[part] += perf_counter() - start

    def _seed_epoch(self, train_data, epoch_idx: int) -> None:
        # dropout differs between processes
        numbers = [int(self.config["seed"]), self.stage, epoch_idx, distributed.rank()]
        seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)  # RecBole's own masking of sequences
        if hasattr(train_data, "set_epoch"):
            train_data.set_epoch(self.stage * 1_000_000 + epoch_idx)
        else:
            train_data.generator.manual_seed(seed)

    def _check_nan(self, loss):
        if not torch.isfinite(loss):
            raise TrainingError(
                "the training loss is no longer a finite number: "
                "try a lower learning_rate or another train_batch_size"
            )

    def _valid_epoch(self, valid_data, show_progress=False):
        with self._validation():
            return super()._valid_epoch(valid_data, show_progress)

    # -- checkpoints ----------------------------------------------------------------------------

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        with self._averaged():
            self._write(self.saved_model_file, self._content(epoch))
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {self.saved_model_file}")

    def _write(self, path: str, content: dict[str, Any]) -> None:
        if not distributed.rank():
            checkpoint.save(path, content)

    def _content(self, epoch: int) -> dict[str, Any]:
        return {
            "model": reference(type(self.model)),
            "settings": checkpoint.settings(self.config),
            "data_path": str(Path(self.config["data_path"]).parent),
            "dataset": self.fingerprint,
            "known": self.known,
            "stage": self.stage,
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": checkpoint.plain(self.best_valid_result),
            "timing": dict(self.timing),
            "stages": checkpoint.plain(self.stages),
            "state_dict": self.model.state_dict(),
            "other_state": (other := checkpoint.other_state(self.model)),
            "other_parameter": other | checkpoint.for_recbole(self.model),
            "arrays": checkpoint.arrays(self.model),
            "optimizer": {k: one.state_dict() for k, one in self._optimizers().items()},
        }

    def _resume(self, dataset) -> bool:
        there = Path(self.last_file).exists()
        if distributed.broadcast_flag(there, self.device) != there:
            raise CheckpointError(f"{self.last_file} is missing for some processes of the run")
        if there:
            self.resume_checkpoint(self.last_file, dataset)
        else:
            self.logger.info("Nothing to resume: starting from the beginning")
        return there

    def resume_checkpoint(self, resume_file, dataset=None):
        """Continue after the epoch of a checkpoint, which must belong to ``dataset`` if given."""
        content = checkpoint.load(resume_file, self.device)
        if dataset is not None:
            checkpoint.check_dataset(content, dataset, resume_file)
        self._match_stage(content)
        checkpoint.load_state(self.model, content, resume_file)
        for name, state in content["optimizer"].items():
            getattr(self, name).load_state_dict(state)
        self._start_average()
        if self.average:
            self.average.load(content.get("average"))
        self.start_epoch = content["epoch"] + 1
        for name in ("cur_step", "best_valid_score", "best_valid_result"):
            setattr(self, name, content[name])
        self.timing = dict(content["timing"])
        self.stages = {int(stage): values for stage, values in content["stages"].items()}
        ended = "".join(
            f"; stage {stage} is over and stays as it is (epochs: {part['epochs']})"
            for stage, part in self.stages.items()
            if stage < self.stage
        )
        self.logger.info(
            f"Resuming stage {self.stage} after epoch {content['epoch']}: "
            f"{self.start_epoch} of {self.epochs} epochs are done{ended}"
        )

    def load_best(self, model_file=None) -> None:
        """Load the best epoch of the current stage, or a checkpoint of any stage."""
        distributed.barrier()  # the first process may still be writing it
        if not model_file and not self.keeps_checkpoint:  # there may be one of an earlier run
            raise CheckpointError(
                "the training kept no checkpoint (saved=False): evaluate the model as it is by "
                "load_best_model=False"
            )
        path = model_file or self.saved_model_file
        content = checkpoint.load(path, self.device)
        self._match_stage(content)
        checkpoint.load_state(self.model, content, path)

    def _match_stage(self, content) -> None:
        """Enter the stage that a checkpoint was saved in; trainers of one stage do nothing."""


class CrossDomainTrainer(CrossDomainMixin, Trainer):
    """RecBole's Trainer under the plugin's protocol, in one stage."""


@lru_cache
def trainer_class(model: type) -> type:
    """Trainer of a model class: its attribute ``trainer``, a class or ``module:Class``.

    Without one it is the trainer that RecBole has for the model or a base of it. A trainer that is
    not the plugin's is put under the plugin's protocol, and one of a plugin's model over the
    trainer that the model needs.
    """
    named = [_resolved(vars(one).get("trainer")) for one in model.__mro__]
    base: Any = next(filter(None, named), None)
    base = base or get_trainer(model.type, builtin_name(model))  # type: ignore[attr-defined]
    if issubclass(base, CrossDomainMixin):
        return base
    for needed in filter(None, named):
        if issubclass(needed, CrossDomainMixin):
            return needed.below(base)
    if base is Trainer:
        return CrossDomainTrainer
    from recbole_edt.trainer.pretraining import STAGES, PretrainingMixin

    goes_by_stages = any(one.__name__ in STAGES for one in base.__mro__)
    mixin = PretrainingMixin if goes_by_stages else CrossDomainMixin
    return type(f"CrossDomain{base.__name__}", (mixin, base), {})


def _resolved(named: Any) -> Any:
    return resolve_name(named) if isinstance(named, str) else named
