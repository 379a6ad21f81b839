"""Training in two stages: pre-training, then fine-tuning from its best epoch."""

from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from recbole_edt import distributed
from recbole_edt.errors import CheckpointError
from recbole_edt.trainer import checkpoint
from recbole_edt.trainer.checkpoint import run_file
from recbole_edt.trainer.trainer import CrossDomainMixin, CrossDomainTrainer, new_timing


class FinetuneTrainer(CrossDomainTrainer):
    """Stage 2 of a model that was pre-trained by another run (``pretrained_path``)."""

    stage = 2

    @classmethod
    def check(cls, config, model, dataset):
        """Refuse a missing, damaged or unfitting pre-trained model, too."""
        cls._load_pretrained(config, model, dataset)
        super().check(config, model, dataset)

    @staticmethod
    def _load_pretrained(config, model, dataset) -> None:
        path = config["pretrained_path"]
        if not path:
            raise CheckpointError("LLMEDTFinetune needs --pretrained_path=<checkpoint of stage 1>")
        content = checkpoint.load(path, config["device"])
        checkpoint.check_dataset(content, dataset, path)
        model.load_pretrained(content["state_dict"])

    def _begin(self, dataset, saved):
        self._load_pretrained(self.config, self.model, dataset)
        self._prepare_stage_2()
        super()._begin(dataset, saved)

    def _prepare_stage_2(self) -> None:
        epochs, learning_rate = self.model.stages[1]
        self._set_epochs(epochs)
        self.optimizer = self._build_optimizer(
            params=self.model.parameter_groups(), learning_rate=self.config[learning_rate]
        )
        self._share_gradients()

    def _set_epochs(self, key: str) -> None:
        self.epochs = self.config[key]
        self.eval_step = min(self.config["eval_step"], self.epochs)

    def _fit_stage(self, train_data, valid_data, verbose, saved, **rest):
        """Count the untrained start of stage 2 as an epoch that can be the best one."""
        if self.start_epoch == 0 and valid_data:
            self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data)
            if saved:
                self._save_checkpoint(-1, verbose=False)
        super()._fit_stage(train_data, valid_data, verbose, saved, **rest)


class TwoStageTrainer(FinetuneTrainer):
    """Both stages in one run; a model says what they are by ``stages`` and its hooks."""

    stage = 1

    def __init__(self, config, model):
        super().__init__(config, model)
        self._set_epochs(model.stages[0][0])
        self.final_file = self.saved_model_file
        self.saved_model_file = run_file(config, "stage1")

    @classmethod
    def check(cls, config, model, dataset):
        """Refuse what a run of one stage refuses: there is no pre-trained model to check."""
        super(FinetuneTrainer, cls).check(config, model, dataset)

    def _begin(self, dataset, saved):
        CrossDomainMixin._begin(self, dataset, saved)

    def _fit_stage(self, train_data, valid_data, verbose, saved, **rest):
        if self.stage == 1:
            CrossDomainMixin._fit_stage(self, train_data, valid_data, verbose, saved, **rest)
            if saved:
                self.load_best()
            self._enter_stage_2()
        super()._fit_stage(train_data, valid_data, verbose, saved, **rest)

    def _enter_stage_2(self) -> None:
        self.model.begin_finetuning()
        self.stage, self.saved_model_file = 2, self.final_file
        self.start_epoch = self.cur_step = 0
        self.timing = new_timing()
        self._prepare_stage_2()
        self.tensorboard.close()  # its steps are epochs, which start again
        self.tensorboard = SummaryWriter(f"{self.tensorboard.log_dir}/stage2")

    def _restore(self, content, path):
        self._match_stage(content)
        super()._restore(content, path)

    def load_best(self, model_file=None):
        """Load the best epoch of the current stage, or a checkpoint of either stage."""
        distributed.barrier()  # the first process may still be writing it
        path = model_file or self.saved_model_file
        content = checkpoint.load(path, self.device)
        self._match_stage(content)
        checkpoint.load_state(self.model, content, path)

    def _match_stage(self, content) -> None:
        if content["stage"] == 2 and self.stage == 1:
            self._enter_stage_2()
