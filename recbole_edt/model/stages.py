"""From stage 1 of LLM-EDT to stage 2: checkpoints, freezing, states that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from recbole_edt.errors import CheckpointError
from recbole_edt.model.adapters import LinearAdapter, ResidualAdapter, start_projection_
from recbole_edt.model.base import CrossDomainModel
from recbole_edt.model.encoder import SequenceEncoder
from recbole_edt.model.frozen import BatchStates, FrozenStates, batch_states
from recbole_edt.model.item_embedding import ItemEmbedding

CACHE_BYTES = 2**30  # states above it are computed per batch
_OF_ONE_STAGE = ("domain_adapters.", "profile_adapter.")  # parameters that one stage uses


class Finetuning(CrossDomainModel):
    """Mixin with the mechanics of stage 2: freezing, checkpoints, cached states.

    List it before the class of stage 1. A subclass in which ``finetuning`` is False at first is its
    first stage until :meth:`begin_finetuning`.
    """

    finetuning = True
    trainer = "recbole_edt.trainer.stages:FinetuneTrainer"
    stages = (("epochs", "learning_rate"), ("finetune_epochs", "finetune_learning_rate"))
    item_embedding: ItemEmbedding
    encoder: SequenceEncoder
    domain_adapters: nn.ModuleList
    _cache: FrozenStates | None = None
    _cache_of: tuple | None = None
    _in_use: FrozenStates | None = None

    def begin_finetuning(self) -> None:
        """Freeze what stage 1 learned, and start the adapters from it.

        Linear adapters start as projections onto the leading axes of their domain's item vectors.
        """
        self.finetuning = True
        self.requires_grad_(False)
        self.domain_adapters.requires_grad_(True)
        with torch.no_grad():
            vectors = self.item_vectors()
            for domain, adapter in enumerate(self.domain_adapters):
                if isinstance(adapter, LinearAdapter):
                    start_projection_(adapter, vectors, self.item_domain == domain)

    def scale_adapters(self, scales: Sequence[float]) -> bool:
        """Set the share of ``h`` that each domain's adapter starts with; whether they have one."""
        for adapter, scale in zip(self.domain_adapters, scales, strict=True):
            if not isinstance(adapter, ResidualAdapter):
                return False
            adapter.scale.fill_(scale)
        return True

    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Take the ``state_dict`` of stage 1 and begin fine-tuning.

        Raises
        ------
        CheckpointError
            If it is of another configuration.
        """
        shared = {n: value for n, value in state.items() if not n.startswith(_OF_ONE_STAGE)}
        try:
            missing, unexpected = self.load_state_dict(shared, strict=False)
        except RuntimeError as error:
            raise CheckpointError("the pre-trained model has other sizes than this one") from error
        if not all(name.startswith(_OF_ONE_STAGE) for name in missing):
            raise CheckpointError("the pre-trained model lacks parts of this one")
        if unexpected:
            raise CheckpointError("the pre-trained model has parts that this one lacks")
        self.begin_finetuning()

    def train(self, mode: bool = True):
        """Switch the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        if self.finetuning:
            self.item_embedding.train(False)
            self.encoder.train(False)
        return self

    def loss_over(self, train_data) -> Callable[..., Tensor]:
        """Loss of the batches of one loader, from states that are computed once for all epochs.

        They are computed at the first batch, and again if the frozen weights have changed.
        """
        if not self.finetuning:
            return super().loss_over(train_data)

        def loss(batch):
            self._in_use = self._cached_states(train_data)
            try:
                return self.calculate_loss(batch)
            finally:
                self._in_use = None

        return loss

    def _cached_states(self, loader) -> FrozenStates | None:
        """States of a loader's targets; None where they are many or differ in each epoch."""
        tensors = chain(self.parameters(), self.buffers())
        # torch counts in-place changes: loading a checkpoint changes the version of frozen tensors
        known = (loader, [(t.data_ptr(), t._version) for t in tensors if not t.requires_grad])
        if self._cache_of != known:
            self._cache = None  # free the memory first
            if self.encoder.causal and FrozenStates.size(self, loader) <= CACHE_BYTES:
                self._cache = FrozenStates(self, loader)
            self._cache_of = known
        return self._cache

    def frozen_states(self, batch, target_mask: Tensor) -> BatchStates:
        """States before the targets of a batch: cached ones, or computed now."""
        if self._in_use is not None:
            return self._in_use.of(batch)
        with torch.no_grad():
            return batch_states(self, batch, self.batch_lookup(batch), target_mask)
