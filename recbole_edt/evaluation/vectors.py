"""Models whose scores are products of vectors: they are ranked without a matrix of scores."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.builtin import SASRecVectors

_SASREC = ("recbole.model.sequential_recommender.sasrec", "SASRec")
"""By name: importing the class imports every sequential model of RecBole."""


class Vectors(Protocol):
    """A model that scores by products of vectors."""

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, d]."""

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with."""


def vectors_of(model: nn.Module) -> Vectors | None:
    """Return a model as :class:`Vectors`: the plugin's models, and exactly RecBole's SASRec.

    None for all others; a subclass of SASRec may score in another way.
    """
    if isinstance(model, CrossDomainModel):
        return model
    exactly = (type(model).__module__, type(model).__qualname__)
    return SASRecVectors(model) if exactly == _SASREC else None
