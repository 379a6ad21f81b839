"""LLMCDSR's two stages, with a meta update of its recall network beside the recommender's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recbole_edt.trainer.stages import TwoStageTrainer


class RecallTrainer(TwoStageTrainer):
    """Contrastive pre-training, then recommendation from its best epoch.

    In stage 2 one optimizer holds the recommender and, at a learning rate of its own, the recall
    network: the recommender's gradients are those of the training loss, the recall network's those
    of :meth:`~recbole_edt.model.baselines.llmcdsr.LLMCDSR.meta_backward`.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.epochs = config["pretrain_epochs"]
        self.eval_step = min(config["eval_step"], self.epochs)

    def _begin(self, dataset, saved):
        super()._begin(dataset, saved)
        if not self.model.pseudo.any():
            self.logger.info(
                "No inserted rows in the data: the recall network has nothing to weigh"
            )
        elif not self.model.has_both.any():
            self.logger.info("No user of both domains: the recall network stays the plain mean")

    def _prepare_stage_2(self) -> None:
        """Turn the optimizer to the recommender and the recall network."""
        self.epochs = self.config["epochs"]
        self.eval_step = min(self.config["eval_step"], self.epochs)
        groups = [
            {"params": self.model.recommender_parameters()},
            {
                "params": list(self.model.recall_network.parameters()),
                "lr": self.config["meta_learning_rate"],
            },
        ]
        self.optimizer = self._build_optimizer(params=groups)

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        if self.stage == 2 and self.model.pseudo.any():
            judges = torch.nonzero(self.model.has_both[train_data.users]).squeeze(1)
            if len(judges):
                loss_func = self._with_meta_update(train_data, judges, epoch_idx)
        return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)

    def _with_meta_update(self, train_data, judges: Tensor, epoch: int) -> Callable[..., Tensor]:
        """Loss of a batch that, every ``meta_interval`` batches, also updates the recall network.

        Parameters
        ----------
        train_data : SequenceLoader
            The training data.
        judges : Tensor
            int64 [n]; windows of users with real items of both domains.
        epoch : int
            Together with the seed it decides which of them judge which batch.
        """
        draw = np.random.SeedSequence([int(self.config["seed"]), self.stage, epoch, 1])
        generator = torch.Generator(device=train_data.device)
        generator.manual_seed(int(draw.generate_state(1)[0]))
        interval, size = self.config["meta_interval"], self.config["meta_batch_size"]
        n_batches = 0

        def loss(interaction):
            nonlocal n_batches
            n_batches += 1
            if n_batches % interval == 0:
                drawn = torch.randperm(len(judges), generator=generator, device=judges.device)
                rows = judges[drawn[:size]]
                self.model.meta_backward(interaction, train_data.collate(rows, generator))
            return self.model.calculate_loss(interaction)

        return loss
