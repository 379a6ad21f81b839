"""Several models of one class that train side by side and score items together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from recbole_edt.model.base import CrossDomainModel
from recbole_edt.settings import changed

_FURTHER = 10**9  # from the epochs of one member's batches to the next one's


@lru_cache
def ensemble_of(model: type) -> type:
    """Class of the ensembles of a class of models, whose name it has."""
    if issubclass(model, Ensemble):
        return model
    copied = {key: getattr(model, key) for key in ("__module__", "__qualname__", "__doc__")}
    return type(model.__name__, (Ensemble, model), {**copied, "member": model})


def _empty(model: type) -> Any:
    kind: Any = ensemble_of(model)
    return kind.__new__(kind)


class Ensemble(CrossDomainModel):
    """Mixin with ``members`` in place of the parts of one model.

    Members differ in what is random: their start, dropout, and the order of their batches and the
    negatives in them. Losses are added up, so that each learns as it does alone. A score is the
    mean of the members' scores (a deep ensemble: Lakshminarayanan et al., NIPS '17), which is the
    product of their vectors one after another: item and user vectors have ``ensemble_size`` times
    ``hidden_size`` entries.
    """

    member: type[CrossDomainModel]
    members: Any  # nn.ModuleList of models of that class

    def __init__(self, config, dataset) -> None:
        CrossDomainModel.__init__(self, config, dataset)  # not the parts of one model
        alone, n = changed(config, ensemble_size=1), config["ensemble_size"]
        self.members = nn.ModuleList(self.member(alone, dataset) for _ in range(n))

    @property
    def finetuning(self) -> bool:  # type: ignore[override]
        """Whether the members are in stage 2."""
        return self.members[0].finetuning

    def __reduce__(self):  # pickle does not find the class by its name
        return _empty, (self.member,), self.__dict__

    # -- training ---------------------------------------------------------------------------------

    def calculate_loss(self, interaction) -> Tensor:
        """Sum of the members' losses of one batch."""
        return sum(member.calculate_loss(interaction) for member in self.members)

    def loss_over(self, train_data) -> Callable[..., Tensor]:
        """Sum of the members' losses, each of batches of its own: the loader's of another epoch."""
        losses = [member.loss_over(train_data) for member in self.members]

        def further():  # begun after the loader's first batch, for which it makes its weights
            loaders = [copy.copy(train_data) for _ in losses[1:]]
            for place, loader in enumerate(loaders, 1):
                loader.set_epoch(train_data.epoch + place * _FURTHER)
            yield from zip(*loaders, strict=True)

        others = further()

        def loss(batch):
            batches = batch, *next(others)
            return sum(of(own) for of, own in zip(losses, batches, strict=True))

        return loss

    def begin_finetuning(self) -> None:
        """Enter stage 2 with every member."""
        for member in self.members:
            member.begin_finetuning()

    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Take the ``state_dict`` of an ensemble's stage 1 and begin fine-tuning."""
        for place, member in enumerate(self.members):
            prefix = f"members.{place}."
            own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            member.load_pretrained(own)

    def scale_adapters(self, scales: Sequence[float]) -> bool:
        """Set the share of ``h`` of every member's adapters, where they have one."""
        return all(member.scale_adapters(scales) for member in self.members)

    def train(self, mode: bool = True):
        """Switch the mode of every member."""
        return CrossDomainModel.train(self, mode)

    # -- inference --------------------------------------------------------------------------------

    def embed(self, items: Tensor) -> Tensor:
        """The members' item vectors one after another, [...] -> [..., n d]."""
        return torch.cat([member.embed(items) for member in self.members], -1)

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, n d] of each domain; their products are means of the members' scores."""
        of_members = [member.user_vectors(interaction) for member in self.members]
        by_domain = zip(*of_members, strict=True)
        return [torch.cat(vectors, -1) / len(self.members) for vectors in by_domain]
