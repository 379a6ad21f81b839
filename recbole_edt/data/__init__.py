"""The data room: from atomic files to leak-free batches and candidates."""

from recbole_edt.data.dataloader import EvaluationLoader, SequenceLoader
from recbole_edt.data.dataset import CrossDomainDataset

__all__ = ["CrossDomainDataset", "EvaluationLoader", "SequenceLoader"]
