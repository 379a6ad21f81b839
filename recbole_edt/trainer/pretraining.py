"""RecBole's models that are pre-trained first: S3Rec and RaCT, all stages in one run."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any

import torch

from recbole_edt import distributed
from recbole_edt.errors import ConfigError
from recbole_edt.settings import changed
from recbole_edt.trainer.trainer import CrossDomainMixin

# RecBole's trainer -> the values of ``train_stage`` in their order
STAGES = {
    "S3RecTrainer": ("pretrain", "finetune"),
    "RaCTTrainer": ("actor_pretrain", "critic_pretrain", "finetune"),
}


class PretrainingMixin(CrossDomainMixin):
    """Goes through the stages of such a model, from the configured ``train_stage`` on.

    RecBole takes a run for each. ``pretrain_epochs`` is for each stage but the last; after every
    ``save_step`` of them the run can be resumed.
    """

    model: Any

    def __init__(self, config, model):
        super().__init__(config, model)
        bases = (base.__name__ for base in type(self).__mro__)
        self.stage_names = next(STAGES[base] for base in bases if base in STAGES)
        self.stage = 1 + self.stage_names.index(config["train_stage"])

    @classmethod
    def check(cls, config, model, dataset):
        """Check the run; several processes are refused."""
        super().check(config, model, dataset)
        if distributed.world_size() > 1:
            raise ConfigError(f"{type(model).__name__} trains in one process: without torchrun")

    def _begin(self, dataset, saved):
        self.train_dataset = dataset
        super()._begin(dataset, saved)

    def _fit_stage(self, train_data, valid_data, verbose, saved, show_progress, callback):
        while self.stage < len(self.stage_names):
            self._pretrain(train_data, verbose, saved, show_progress)
            self._enter(self.stage + 1)
        super()._fit_stage(train_data, valid_data, verbose, saved, show_progress, callback)

    def _pretrain(self, train_data, verbose, saved, show_progress) -> None:
        for epoch in range(self.start_epoch, self.config["pretrain_epochs"]):
            if self._reason_to_stop():
                break
            start = time()
            loss = self._train_epoch(train_data, epoch, show_progress=show_progress)
            if verbose:
                self.logger.info(self._generate_train_loss_output(epoch, start, time(), loss))
            self._add_train_loss_to_tensorboard(epoch, loss)
            if saved and (epoch + 1) % self.config["save_step"] == 0:
                self._write(self.last_file, self._content(epoch))
        self.stages[self.stage] = {"valid": None, **self.timing}

    def _enter(self, stage: int) -> None:
        """Make the model of a stage from the parameters of the present one, as RecBole does it."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "pretrained.pth"
            torch.save({"state_dict": self.model.state_dict()}, path)
            changes = {"train_stage": self.stage_names[stage - 1], "pre_model_path": str(path)}
            config = changed(self.config, **changes)
            logging.disable(logging.INFO)  # RaCT's message about the file is malformed
            try:
                self.model = type(self.model)(config, self.train_dataset).to(self.device)
            finally:
                logging.disable(logging.NOTSET)
        self._begin_stage(stage)
        self.optimizer = self._build_optimizer()

    def _match_stage(self, content):
        if hasattr(self, "train_dataset") and content["stage"] > self.stage:
            self._enter(content["stage"])
