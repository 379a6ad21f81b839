"""Models whose scores are products of vectors: they are ranked without a matrix of scores."""

from __future__ import annotations

from torch import nn

from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.recbole_sasrec import SASRecVectors

# compared by name: importing the class imports every sequential model of RecBole
_SASREC = ("recbole.model.sequential_recommender.sasrec", "SASRec")


def has_vectors(model: type) -> bool:
    """Whether :func:`vectors_of` finds vectors in the models of a class."""
    if issubclass(model, CrossDomainModel):
        return model.full_sort_predict is CrossDomainModel.full_sort_predict
    return (model.__module__, model.__qualname__) == _SASREC


def vectors_of(model: nn.Module) -> CrossDomainModel | SASRecVectors | None:
    """Return what gives the vectors of a model: ``item_vectors`` and ``user_vectors``.

    None for all but the plugin's models and exactly RecBole's SASRec: a subclass of SASRec may
    score in another way, and so does one of a plugin's model with a ``full_sort_predict``.
    """
    if not has_vectors(type(model)):
        return None
    return model if isinstance(model, CrossDomainModel) else SASRecVectors(model)
