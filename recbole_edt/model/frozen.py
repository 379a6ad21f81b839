"""What a frozen backbone says about the training data: computed once, for all epochs of stage 2."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_edt.data.dataloader import SEQUENCE, WINDOW, SequenceLoader
from recbole_edt.model.lookup import Lookup

_BLOCK = 512
"""Windows that are encoded at a time."""


def fingerprint(model: torch.nn.Module) -> tuple:
    """Tell one state of a model's frozen tensors from another, without reading them.

    Torch counts the changes of a tensor in place: loading a checkpoint changes the fingerprint, a
    step of the optimizer does not.
    """
    tensors = chain(model.parameters(), model.buffers())
    return tuple((t.data_ptr(), t._version) for t in tensors if not t.requires_grad)


class FrozenStates:
    """States before every training target, and the vectors of all items, of a frozen model.

    Parameters
    ----------
    model : LLMEDTFinetune
        In stage 2, with a causal backbone.
    loader : SequenceLoader
        Gives the windows; the batches that states are asked for are its own.
    in_domain : bool
        Whether the states of the domain sub-sequences are frozen, too.

    Attributes
    ----------
    states : Tensor
        [n_targets, d]; global states, those of a window behind each other.
    domain_states : Tensor or None
        [n_targets, d]; states of each target's own domain sub-sequence, not yet adapted; zero where
        the target is the first of its domain.
    """

    @torch.no_grad()
    def __init__(self, model, loader: SequenceLoader, in_domain: bool) -> None:
        lengths = loader.stops - loader.starts
        self.first = lengths.cumsum(0) - lengths  # place of each window's first target
        like = model.encoder.positions.weight
        items = model.embed(torch.arange(model.n_items, device=like.device)).to(like.dtype)
        self.lookup = Lookup(items)
        shape = (int(lengths.sum()), like.shape[1])
        self.states = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.domain_states = torch.zeros_like(self.states) if in_domain else None
        # a batch's negatives are not needed here: they are drawn from a generator of their own
        generator = torch.Generator(device=loader.device).manual_seed(0)
        for windows in torch.argsort(lengths, stable=True).split(_BLOCK):
            self._encode(model, loader.collate(windows, generator))

    @staticmethod
    def size(model, loader: SequenceLoader, in_domain: bool) -> int:
        """Bytes that the states and vectors would take."""
        n_targets = int((loader.stops - loader.starts).sum())
        like = model.encoder.positions.weight
        rows = n_targets * (2 if in_domain else 1) + model.n_items
        return rows * like.shape[1] * like.element_size()

    def _encode(self, model, batch) -> None:
        sequence = batch[SEQUENCE]
        targets = torch.nonzero(sequence[:, 1:] > 0, as_tuple=True)
        places = self.places(batch, *targets)
        encode: Callable[..., Tensor] = model.encoder.before_targets
        nothing = torch.zeros_like(sequence, dtype=torch.bool)
        states = encode(self.lookup, sequence, nothing)
        self.states[places] = states[targets].to(self.states.dtype)
        if self.domain_states is not None:
            positions = model.own_positions()
            states, _ = model.states_in_own_domain(
                batch, lambda domain, *rest: encode(self.lookup, *rest, positions[domain])
            )
            self.domain_states[places] = states[targets].to(self.states.dtype)

    def places(self, batch, rows: Tensor, steps: Tensor) -> Tensor:
        """Places of a batch's targets in the states: int64, the shape of ``rows`` and ``steps``."""
        return self.first[batch[WINDOW]][rows] + steps

    def padded(self, batch) -> Tensor:
        """Global states in the shape of a batch, [B, L, d]; they mean nothing on padding."""
        steps = torch.arange(batch[SEQUENCE].shape[1] - 1, device=self.first.device)
        places = self.first[batch[WINDOW]][:, None] + steps
        return F.embedding(places.clamp_(max=len(self.states) - 1), self.states)
