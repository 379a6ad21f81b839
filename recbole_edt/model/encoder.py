"""From item sequences to user states (eq. 8): a backbone with position embeddings."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_edt.model.backbones import Transformer, make_backbone
from recbole_edt.model.packing import PackedStates, Packing


def drop_items(vectors: Tensor, share: float) -> Tensor:
    """Blank whole items [..., d] at random; unlike dropout, the others are not scaled."""
    if not share:
        return vectors
    kept = torch.rand(vectors.shape[:-1], device=vectors.device) >= share
    return vectors * kept[..., None]


class SequenceEncoder(nn.Module):
    """A backbone with its position embeddings: from item sequences to user states (eq. 8).

    ``config`` holds ``backbone`` and its sizes, ``dropout`` and ``item_dropout``.
    """

    mask_ratio = 0.2  # share of the items that a bidirectional backbone hides in training

    def __init__(self, config, max_length: int) -> None:
        super().__init__()
        self.item_dropout = config["item_dropout"]
        self.backbone: Any = make_backbone(config)
        self.positions = nn.Embedding(max_length + 1, config["hidden_size"])
        nn.init.normal_(self.positions.weight, std=0.02)

    @property
    def causal(self) -> bool:
        """Whether each state has seen no later step."""
        return self.backbone.causal

    @property
    def mask_vector(self) -> Tensor | None:
        """Vector used in place of a hidden item; None in a causal encoder."""
        return self.backbone.mask_vector

    def encode(self, vectors: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Map vectors of a sequence's items to states, as a backbone does."""
        return self.backbone(vectors, positions, valid)

    def before_targets(
        self, lookup, sequence: Tensor, masked: Tensor, wanted: Tensor | None = None
    ) -> Tensor:
        """User states [B, L, d] from which each target of a sequence is predicted (eq. 8).

        ``lookup`` maps item ids to vectors. Columns ``1:`` of ``sequence`` [B, L + 1] are the
        targets; state t has not seen ``sequence[:, t + 1]``. ``masked``, bool [B, L + 1], are items
        hidden from a bidirectional backbone, ignored by a causal one. ``wanted``, bool [B, L], are
        the first steps of each row whose states are needed; by default all real ones.
        """
        positions = self.positions.weight
        if self.causal:
            inputs = sequence[:, :-1]
            vectors = drop_items(lookup(inputs), self.item_dropout if self.training else 0.0)
            valid = inputs > 0 if wanted is None else wanted
            return self.encode(vectors, positions[: inputs.shape[1]], valid)
        vectors = torch.where(masked[..., None], self.mask_vector, lookup(sequence))  # type: ignore
        valid = sequence > 0
        valid[:, 0] = True  # softmax over an all-masked row is NaN
        return self.encode(vectors, positions[: sequence.shape[1]], valid)[:, 1:]

    def packed_before_targets(
        self, lookup, sequence: Tensor, masked: Tensor
    ) -> PackedStates | Tensor:
        """:meth:`before_targets` of all targets, left packed where the backbone packs."""
        backbone, wanted = self.backbone, sequence[:, 1:] > 0
        own = type(self).encode is not SequenceEncoder.encode
        if own or not isinstance(backbone, Transformer) or not backbone.causal:
            return self.before_targets(lookup, sequence, masked, wanted=wanted)
        inputs, packing = sequence[:, :-1], Packing(wanted)
        vectors = lookup(inputs.reshape(-1)[packing.index])
        if self.training and self.item_dropout:
            kept = torch.rand(wanted.shape, device=wanted.device) >= self.item_dropout
            vectors = vectors * kept.view(-1)[packing.index][:, None]
        states = backbone.on_packed(vectors, self.positions.weight, packing, wanted)
        return PackedStates(states, packing)

    def last(self, lookup, sequence: Tensor, lengths: Tensor) -> Tensor:
        """State [B, d] after the last item of each sequence: the user vector of eq. 8.

        ``sequence`` is int64 [B, L], right-padded; the state of a user with length 0 is arbitrary.
        """
        width = max(int(lengths.max()), 1)
        sequence = F.pad(sequence[:, :width], (0, 1))
        steps = torch.arange(width + 1, device=lengths.device)
        after = steps == lengths[:, None]
        if not self.causal:
            sequence = sequence.masked_fill(after, 1)  # any real item: the mask vector hides it
        states = self.before_targets(lookup, sequence, after)
        return states[torch.arange(len(lengths), device=lengths.device), (lengths - 1).clamp(min=0)]

    def choose_targets(self, sequence: Tensor) -> Tensor:
        """Targets of sequences [B, L + 1], bool: all items but the first.

        A bidirectional backbone predicts the last and a random share of the others.
        """
        lengths = (sequence > 0).sum(1, keepdim=True)
        steps = torch.arange(sequence.shape[1], device=sequence.device)
        target_mask = (steps > 0) & (steps < lengths)
        if self.causal:
            return target_mask
        drawn = torch.rand(sequence.shape, device=sequence.device) < self.mask_ratio
        return target_mask & (drawn | (steps == lengths - 1))
