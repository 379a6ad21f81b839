"""Models whose scores are products of a user's and an item's vector: they need no score matrix."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.builtin import SASRecVectors

_SASREC = ("recbole.model.sequential_recommender.sasrec", "SASRec")
"""Known by name: to import it is to import every sequential model of RecBole."""


class Vectors(Protocol):
    """A model that scores by products of vectors."""

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, d]."""

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with."""


def vectors_of(model: nn.Module) -> Vectors | None:
    """Return the vectors that a model's scores are products of; None if there are none known.

    All models of the plugin have them, and RecBole's own SASRec; whatever derives from SASRec may
    score in another way.
    """
    if isinstance(model, CrossDomainModel):
        return model
    exactly = (type(model).__module__, type(model).__qualname__)
    return SASRecVectors(model) if exactly == _SASREC else None
