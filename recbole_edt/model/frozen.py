"""States of a frozen backbone for stage 2: per batch, or computed once for a whole loader."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recbole_edt.data.dataloader import SEQUENCE, WINDOW, SequenceLoader, domain_sequence_fields
from recbole_edt.model.lookup import Lookup

_BLOCK = 512  # windows encoded per block


class BatchStates(NamedTuple):
    """States before the targets of a batch."""

    lookup: Any  # item ids -> vectors
    u: Tensor  # [n, d]; of the mixed sequence
    h: Tensor  # [n, d]; of the sub-sequence of the target's domain
    has_history: Tensor  # bool [B, L]; where there is domain history
    rows: Tensor | None = None  # int64 [B, L]; rows of u and h; None: the flattened batch

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """``u`` and ``h`` [n, d] at places of the flattened batch, int64 [n]."""
        rows = places if self.rows is None else self.rows.view(-1)[places]
        return self.u[rows], self.h[rows]


@torch.no_grad()
def batch_states(model, batch, lookup, target_mask: Tensor) -> BatchStates:
    """States of one batch; arguments as in ``CrossDomainModel.shared_domain_states``."""
    u = model.encoder.before_targets(lookup, batch[SEQUENCE], target_mask)
    h, has_history = model.shared_domain_states(batch, lookup, target_mask)
    return BatchStates(lookup, u.flatten(0, 1), h.flatten(0, 1), has_history)


class FrozenStates:
    """States before every target of a loader, and all item vectors, of a model in stage 2.

    Its backbone must be causal: a bidirectional one hides other targets in each epoch.
    """

    @torch.no_grad()
    def __init__(self, model, loader: SequenceLoader) -> None:
        lengths = loader.stops - loader.starts
        self.first = lengths.cumsum(0) - lengths  # row of each window's first target
        like = model.encoder.positions.weight
        items = model.embed(torch.arange(model.n_items, device=like.device)).to(like.dtype)
        self.lookup = Lookup(items)
        self.u = like.new_empty(int(lengths.sum()), like.shape[1])
        self.h = torch.empty_like(self.u)
        # the negatives of these batches are not used: loaders draw from generators of their own
        generator = torch.Generator(device=loader.device).manual_seed(0)
        for windows in torch.argsort(lengths, stable=True).split(_BLOCK):
            batch = loader.collate(windows, generator)
            following = batch[SEQUENCE][:, 1:] > 0
            hidden = torch.zeros_like(batch[SEQUENCE]).bool()
            states = batch_states(model, batch, self.lookup, hidden)
            u, h = states.at(torch.nonzero(following.reshape(-1)).squeeze(1))
            rows = self._rows(batch)[following]
            self.u[rows], self.h[rows] = u.to(self.u.dtype), h.to(self.u.dtype)

    @staticmethod
    def size(model, loader: SequenceLoader) -> int:
        """Bytes that the states and vectors would take."""
        n_targets = int((loader.stops - loader.starts).sum())
        like = model.encoder.positions.weight
        return (2 * n_targets + model.n_items) * like.shape[1] * like.element_size()

    def _rows(self, batch) -> Tensor:
        """Row of each target of a batch, int64 [B, L]; arbitrary on padding."""
        steps = torch.arange(batch[SEQUENCE].shape[1] - 1, device=self.first.device)
        return self.first[batch[WINDOW]][:, None] + steps

    def of(self, batch) -> BatchStates:
        """States of a batch of the loader."""
        places = [batch[domain_sequence_fields(domain)[1]] for domain in (0, 1)]
        has_history = (places[0] >= 1) | (places[1] >= 1)
        return BatchStates(self.lookup, self.u, self.h, has_history, self._rows(batch))
