"""Training in two stages: pre-training, then fine-tuning from its best epoch."""

from __future__ import annotations

import numpy as np

from recbole_edt.errors import CheckpointError, ConfigError
from recbole_edt.log import by_domain
from recbole_edt.trainer import checkpoint, growth
from recbole_edt.trainer.trainer import CrossDomainTrainer

SCALES = (1.0, 0.75, 0.5, 0.25, 0.0)


class TwoStageTrainer(CrossDomainTrainer):
    """Both stages in one run, configured by the model's ``stages`` and its hooks."""

    def __init__(self, config, model):
        super().__init__(config, model)
        self._built = self.optimizer
        if self.stage == 1:
            self._set_epochs(model.stages[0][0])

    def _set_epochs(self, key: str) -> None:
        self.epochs = self.config[key]
        self.eval_step = min(self.config["eval_step"], self.epochs)

    def _fit_stage(self, train_data, valid_data, verbose, saved, show_progress, callback):
        """Count the untrained start of stage 2 as an epoch that can be the best one."""
        if self.stage == 1:
            self.saved_model_file = checkpoint.run_file(self.config, "stage1")
            super()._fit_stage(train_data, valid_data, verbose, saved, show_progress, callback)
            if saved:
                self.load_best()
            self._enter_stage_2()
            self.saved_model_file = self.best_file
        if self.start_epoch == 0 and valid_data:
            self._choose_start(valid_data)
            self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data)
            if saved:
                self._save_checkpoint(-1, verbose=False)
        super()._fit_stage(train_data, valid_data, verbose, saved, show_progress, callback)

    def _choose_start(self, valid_data) -> None:
        """Start each domain's adapter with the share of ``h`` that validation likes best.

        By default that is all of it, ``SCALES[0]``, and of equal shares the first.
        """
        scale = self.model.scale_adapters
        if not scale([SCALES[0]] * 2):
            return
        sign = 1 if self.valid_metric_bigger else -1
        scores = []
        for share in SCALES:
            scale([share] * 2)
            overall, found = self._valid_epoch(valid_data)
            keys = (f"{name}/{self.valid_metric}" for name in valid_data._dataset.domains)
            scores.append([sign * found.get(key, overall) for key in keys])
        chosen = [SCALES[place] for place in np.argmax(scores, axis=0)]
        scale(chosen)
        told = by_domain(chosen, valid_data._dataset.domains)
        self.logger.info(
            f"stage 2 starts with the weight of the domain term that validates best: {told}"
        )

    def _enter_stage_2(self) -> None:
        self.model.begin_finetuning()
        self._begin_stage(2)
        self._prepare_stage_2()

    def _prepare_stage_2(self) -> None:
        epochs, learning_rate = self.model.stages[1]
        self._set_epochs(epochs)
        if self.optimizer is not self._built:
            self.logger.warning(
                "stage 2 makes its own optimizer (learner, finetune_learning_rate): the one that "
                "was set on the trainer serves stage 1; a method _build_optimizer serves both"
            )
        before, trained = self.optimizer, [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = self._built = self._build_optimizer(
            params=trained, learning_rate=self.config[learning_rate]
        )
        left = [key for key, one in vars(self).items() if getattr(one, "optimizer", 0) is before]
        if left:
            self.logger.warning(
                f"stage 2 makes its own optimizer, which {' and '.join(left)} of the trainer does "
                "not follow: make schedulers in a method _build_optimizer, which serves both stages"
            )
        self._share_gradients()

    def _match_stage(self, content):
        if content["stage"] == 2 and self.stage == 1:
            self._enter_stage_2()


class FinetuneTrainer(TwoStageTrainer):
    """Stage 2 of a model that was pre-trained by another run (``pretrained_path``)."""

    stage = 2
    start_key = "pretrained_path"

    @classmethod
    def check(cls, config, model, dataset):
        """Check the run and its pre-trained model."""
        if config["start_from"]:
            raise ConfigError("LLMEDTFinetune starts from --pretrained_path, not from start_from")
        cls._load_pretrained(config, model, dataset)
        super().check(config, model, dataset)

    @staticmethod
    def _load_pretrained(config, model, dataset) -> None:
        path = config["pretrained_path"]
        if not path:
            raise CheckpointError("LLMEDTFinetune needs --pretrained_path=<checkpoint of stage 1>")
        content = growth.to_train_on(model, checkpoint.load(path), dataset, path)
        model.load_pretrained(content["state_dict"])

    def _begin(self, dataset, saved):
        self._load_pretrained(self.config, self.model, dataset)
        self.average = None
        self._prepare_stage_2()
        super()._begin(dataset, saved)
