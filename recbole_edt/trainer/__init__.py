"""Training: RecBole's Trainer under the leak-free protocol, in one or two stages."""

from recbole_edt.trainer.trainer import CrossDomainMixin, CrossDomainTrainer, trainer_class

__all__ = ["CrossDomainMixin", "CrossDomainTrainer", "trainer_class"]
