"""Optimizers of a training: averaged weights, sparse tables, gradients of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from recbole.utils import ModelType

from recbole_edt import distributed
from recbole_edt.errors import ConfigError
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.trainer.adam import fused, update_touched_rows
from recbole_edt.trainer.averaging import AveragedWeights
from recbole_edt.trainer.evaluating import TrainerBehind


class OptimizersMixin(TrainerBehind):
    """What the plugin adds to the optimizers of any of RecBole's trainers."""

    average: AveragedWeights | None = None
    optimizer: Any
    distributed_model: Any
    _followed: tuple[torch.optim.Optimizer, ...] = ()
    _hooks: Sequence[Any] = ()

    def _build_optimizer(self, **kwargs):
        optimizer = super()._build_optimizer(**kwargs)
        return fused(optimizer) if self.device.type == "cpu" else optimizer

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers by the attributes that hold them; RecBole's RecVAE has two."""
        found = {k: v for k, v in vars(self).items() if isinstance(v, torch.optim.Optimizer)}
        names = {id(one): name for name, one in found.items()}  # the last of several
        return {name: found[name] for name in names.values()}

    def _follow_optimizers(self) -> None:
        """Act at the steps of the present optimizers, which may be a user's own.

        Weights are averaged after each step. Plain Adam updates only the touched rows of sparse
        tables; for any other optimizer they become dense.
        """
        self._start_average()
        optimizers = tuple(self._optimizers().values())
        if optimizers == self._followed:
            return
        for hook in self._hooks:
            hook.remove()
        hooks = [one.register_step_post_hook(self._update_average) for one in optimizers]
        plain = all(
            type(one) is torch.optim.Adam and not one.defaults["weight_decay"] for one in optimizers
        )
        if self.clip_grad_norm or not plain:
            self._make_tables_dense()
        elif self._sparse_tables():
            hooks += [one.register_step_pre_hook(update_touched_rows) for one in optimizers]
        self._followed, self._hooks = optimizers, hooks

    def _start_average(self) -> None:
        if self.average is None and self.config["weight_average"]:
            self.average = AveragedWeights(self.model.parameters(), self.config["weight_average"])

    def _update_average(self, *_) -> None:
        if self.average:
            self.average.update()

    def _averaged(self):
        """Use the averaged weights inside the block, where there are any."""
        return self.average.applied() if self.average else nullcontext()

    def _sparse_tables(self) -> list[Any]:
        if not isinstance(self.model, CrossDomainModel):
            return []
        return [module for module in self.model.modules() if getattr(module, "sparse", False)]

    def _make_tables_dense(self) -> None:
        for table in self._sparse_tables():
            table.sparse = False

    def _share_gradients(self) -> None:
        """Let processes share the gradients of the parameters that are trainable now."""
        plugin = isinstance(self.model, CrossDomainModel)
        self.splits_batches = plugin and distributed.world_size() > 1
        if self.splits_batches:
            check_processes(self.model)
            self._make_tables_dense()
            self.distributed_model = None  # removes the hooks of the old one first
            self.distributed_model = distributed.data_parallel(self.model, self.device)

    def set_reduce_hook(self):
        """Prepare RecBole's way of sharing gradients; the plugin's models go through a wrapper."""
        if not self.splits_batches:
            super().set_reduce_hook()

    def sync_grad_loss(self):
        """Touch every parameter, as RecBole's way of sharing gradients needs it."""
        return 0 if self.splits_batches else super().sync_grad_loss()


def check_processes(model) -> None:
    """Raise ConfigError for several processes if the model needs a whole batch, or all of them."""
    if distributed.world_size() == 1:
        return
    if isinstance(model, CrossDomainModel) and not model.splits_batches:
        raise ConfigError(
            f"{type(model).__name__} trains in one process: its losses contrast what a batch "
            "holds (start it without torchrun)"
        )
    if model.type == ModelType.TRADITIONAL:
        raise ConfigError(
            f"{type(model).__name__} trains in one process: it counts (start it without torchrun)"
        )
