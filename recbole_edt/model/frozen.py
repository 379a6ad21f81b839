"""States that a frozen backbone gives stage 2: of one batch, or once of all batches of a loader."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from recbole_edt.data.dataloader import SEQUENCE, WINDOW, SequenceLoader, domain_sequence_fields
from recbole_edt.model.lookup import Lookup

CACHE_BYTES = 2**30
"""States that would take more are computed batch by batch."""

_BLOCK = 512
"""Windows that are encoded at a time."""


class BatchStates:
    """States before the targets of a batch.

    Parameters
    ----------
    lookup : callable
        Item ids -> vectors.
    u, own : Tensor
        [n, d]; states of the mixed sequence and of the target's own domain sub-sequence.
    has : Tensor
        bool [B, L]; where there is domain history.
    rows : Tensor, optional
        int64 [B, L]; row of each target in ``u``; by default they are the flattened batch.
    """

    def __init__(
        self, lookup, u: Tensor, own: Tensor, has: Tensor, rows: Tensor | None = None
    ) -> None:
        self.lookup, self.u, self.own, self.has = lookup, u, own, has
        self.rows = rows

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """``u`` and ``own`` [n, d] at places of the flattened batch, int64 [n]."""
        rows = places if self.rows is None else self.rows.view(-1)[places]
        return self.u[rows], self.own[rows]


@torch.no_grad()
def batch_states(model, batch, lookup, chosen: Tensor) -> BatchStates:
    """Compute the states of one batch; arguments as in ``LLMEDTFinetune.own_states``."""
    u = model.encoder.before_targets(lookup, batch[SEQUENCE], chosen)
    own, has = model.own_states(batch, lookup, chosen)
    return BatchStates(lookup, u.flatten(0, 1), own.flatten(0, 1), has)


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
        self.own = torch.empty_like(self.u)
        # the negatives of these batches are not used: loaders draw from generators of their own
        generator = torch.Generator(device=loader.device).manual_seed(0)
        for windows in torch.argsort(lengths, stable=True).split(_BLOCK):
            self._encode(model, loader.collate(windows, generator))

    @staticmethod
    def size(model, loader: SequenceLoader) -> int:
        """Bytes that the states and vectors would take."""
        n_targets = int((loader.stops - loader.starts).sum())
        like = model.encoder.positions.weight
        return (2 * n_targets + model.n_items) * like.shape[1] * like.element_size()

    def _encode(self, model, batch) -> None:
        following = batch[SEQUENCE][:, 1:] > 0
        known = batch_states(model, batch, self.lookup, torch.zeros_like(batch[SEQUENCE]).bool())
        rows = self._rows(batch)[following]
        places = torch.nonzero(following.reshape(-1)).squeeze(1)
        u, own = known.at(places)
        self.u[rows], self.own[rows] = u.to(self.u.dtype), own.to(self.u.dtype)

    def _rows(self, batch) -> Tensor:
        """Row of each target of a batch, int64 [B, L]; any number on padding."""
        steps = torch.arange(batch[SEQUENCE].shape[1] - 1, device=self.first.device)
        return self.first[batch[WINDOW]][:, None] + steps

    def of(self, batch) -> BatchStates:
        """States of a batch of the loader."""
        places = [batch[domain_sequence_fields(domain)[1]] for domain in (0, 1)]
        has = (places[0] >= 1) | (places[1] >= 1)
        return BatchStates(self.lookup, self.u, self.own, has, self._rows(batch))


def fingerprint(model: torch.nn.Module) -> tuple:
    """Tell one state of a model's frozen tensors from another, without reading them.

    Torch counts in-place changes of a tensor: loading a checkpoint changes the fingerprint, a step
    of the optimizer does not.
    """
    tensors = chain(model.parameters(), model.buffers())
    return tuple((t.data_ptr(), t._version) for t in tensors if not t.requires_grad)
