"""Sequence backbones (table 10): SASRec, GRU4Rec and BERT4Rec, on right-padded sequences.

A backbone maps item vectors [batch, length, d] to states of the same shape. In a causal one the
state at step t has seen the items up to t and predicts the item at t + 1; in a bidirectional one
the state at a masked step predicts the item that was there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_edt.model.kernels import (
    Linear,
    add_dropout,
    dropout,
    has_tiled_attention,
    look_up,
    rounded_rows,
    take_rows,
    take_rows_each,
    tile_masks,
    tile_sequences,
    tiled_attention,
)


class Packing:
    """Where the real steps of a padded batch lie, so that padding costs next to nothing.

    Everything that treats steps alone runs on packed rows [n, d]. Attention needs the steps of a
    sequence side by side: where it can take tiles of several sequences, they are packed in the
    order of the tiles, and a few rows stay empty; elsewhere it sees the padded batch.

    Parameters
    ----------
    valid : Tensor
        bool [B, L]; False on padding, which stands behind the real steps.

    Attributes
    ----------
    index : Tensor
        int64 [n]; place of each row in the flattened batch, any one for an empty row.
    real : Tensor or None
        int64 [n_real]; the rows that are not empty. None if that is all.
    tiles : list of (int, int) or None
        How many tiles of what size follow each other; None on a device whose attention is padded.
    """

    def __init__(self, valid: Tensor) -> None:
        self.shape = valid.shape
        self.real: Tensor | None = None
        self.tiles: list[tuple[int, int]] | None = None
        if not has_tiled_attention(valid.device):
            self.index = torch.nonzero(valid.reshape(-1)).squeeze(1)
            return
        lengths = valid.sum(1)
        starts, self.tiles = tile_sequences(lengths.tolist())
        row, step = torch.nonzero(valid, as_tuple=True)
        n = rounded_rows(sum(n * size for n, size in self.tiles))
        self.real = torch.tensor(starts, dtype=torch.int64)[row] + step
        self.index = torch.zeros(n, dtype=torch.int64)
        self.index[self.real] = row * valid.shape[1] + step
        self._sequence = torch.arange(-n, 0)  # an empty row sees itself: of nothing, NaN comes
        self._sequence[self.real] = row
        self._masks: dict[tuple[bool, torch.dtype], list[Tensor]] = {}

    @property
    def steps(self) -> Tensor:
        """Step of each row in its sequence, int64 [n]."""
        return self.index % self.shape[1]

    @property
    def places(self) -> Tensor:
        """Places of the real steps in the flattened batch, int64 [n_real]."""
        return self.index if self.real is None else self.index[self.real]

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L, d] -> [n, d], zero in empty rows."""
        rows = take_rows(padded.reshape(-1, padded.shape[-1]), self.places)
        if self.real is None:
            return rows
        return rows.new_zeros(len(self.index), rows.shape[1]).index_copy(0, self.real, rows)

    def pad(self, packed: Tensor) -> Tensor:
        """[n, d] -> [B, L, d], zero on padding."""
        batch, length = self.shape
        rows = packed if self.real is None else take_rows(packed, self.real)
        flat = packed.new_zeros(batch * length, packed.shape[-1])
        return flat.index_copy(0, self.places, rows).view(batch, length, -1)

    def masks(self, causal: bool, dtype: torch.dtype) -> list[Tensor]:
        """What :func:`~recbole_edt.model.kernels.tiled_attention` adds to its logits."""
        assert self.tiles is not None
        if (causal, dtype) not in self._masks:
            self._masks[causal, dtype] = tile_masks(self._sequence, self.tiles, causal, dtype)
        return self._masks[causal, dtype]


class PackedStates:
    """States of the real steps of a batch, which are never padded.

    Parameters
    ----------
    packed : Tensor
        [n, d].
    packing : Packing
        Where they lie.
    """

    def __init__(self, packed: Tensor, packing: Packing) -> None:
        self.packed, self.packing = packed, packing

    def take(self, *places: Tensor) -> tuple[Tensor, ...]:
        """States at different places of the flattened batch, all of real steps: [m, d] each."""
        packing, device = self.packing, self.packed.device
        rows = torch.zeros(packing.shape.numel(), dtype=torch.int64, device=device)
        real = torch.arange(len(packing.index)) if packing.real is None else packing.real
        rows[packing.places] = real.to(device)
        return take_rows_each(self.packed, *(rows[place] for place in places))

    def padded(self) -> Tensor:
        """[B, L, d]; zero on padding."""
        return self.packing.pad(self.packed)


def multi_head_attention(
    qkv: Tensor, packing: Packing, valid: Tensor, n_heads: int, causal: bool
) -> Tensor:
    """Scaled dot-product attention among the steps of each sequence, before the output layer.

    Right padding needs no mask in causal attention: padding stands behind every real step.

    Parameters
    ----------
    qkv : Tensor
        [n_real, 3 d]; queries, keys and values side by side, on packed steps.
    packing : Packing
        Where the steps lie.
    valid : Tensor
        bool [B, L]; False on padding.
    n_heads : int
        Divides d.
    causal : bool
        Whether a step attends only to itself and the steps before it.

    Returns
    -------
    Tensor
        [n_real, d].
    """
    if packing.tiles is not None:
        return tiled_attention(qkv, packing.tiles, packing.masks(causal, qkv.dtype), n_heads)
    batch, length = packing.shape
    padded = packing.pad(qkv).view(batch, length, 3, n_heads, -1)
    query, key, value = padded.permute(2, 0, 3, 1, 4)  # each [B, heads, L, d / heads]
    mask = None if causal else valid[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    return packing.pack(mixed.transpose(1, 2).reshape(batch, length, -1))


_MEAN_SHARE = 0.5
"""Weight of the history in a layer that starts as a mean; the step itself has one."""

_SMALL_START = 0.1
"""What a layer that starts as a mean leaves of the random queries, keys and feed-forward part."""


class TransformerLayer(nn.Module):
    """One pre-norm self-attention block on packed steps."""

    def __init__(
        self, hidden_size: int, n_heads: int, inner_size: int, dropout: float, causal: bool
    ) -> None:
        super().__init__()
        self.n_heads, self.dropout, self.causal = n_heads, dropout, causal
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)
        self.inner_norm = nn.LayerNorm(hidden_size)
        self.inner = Linear(hidden_size, inner_size)
        self.outer = Linear(inner_size, hidden_size)

    @torch.no_grad()
    def start_mean_(self) -> None:
        """Start as ``state + _MEAN_SHARE * mean of the states attended to``, and little else.

        Item vectors that know from the start which items are alike are then of use from the start:
        a state lies near the items of its history. Random values and outputs would first have to
        be unlearned.
        """
        size = self.out.in_features
        self.qkv.weight[: 2 * size].mul_(_SMALL_START)
        self.qkv.weight[2 * size :].copy_(torch.eye(size))
        self.out.weight.copy_(torch.eye(size) * _MEAN_SHARE)
        self.outer.weight.mul_(_SMALL_START)
        for module in (self.qkv, self.out, self.outer):
            module.bias.zero_()

    def forward(self, states: Tensor, packing: Packing, valid: Tensor) -> Tensor:
        """Map [n_real, d] to [n_real, d]; ``valid`` is bool [B, L]."""
        qkv = self.qkv(self.attention_norm(states))
        mixed = self.out(multi_head_attention(qkv, packing, valid, self.n_heads, self.causal))
        states = add_dropout(states, mixed, self.dropout, self.training)
        inner = F.gelu(self.inner(self.inner_norm(states)))
        return add_dropout(states, self.outer(inner), self.dropout, self.training)


class Transformer(nn.Module):
    """SASRec's (causal) or BERT4Rec's (bidirectional) stack of self-attention blocks."""

    def __init__(self, config, causal: bool) -> None:
        super().__init__()
        size, self.causal = config["hidden_size"], causal
        self.dropout = config["dropout"]
        self.layers = nn.ModuleList(
            TransformerLayer(size, config["n_heads"], config["inner_size"], self.dropout, causal)
            for _ in range(config["n_layers"])
        )
        self.input_norm = nn.LayerNorm(size)
        self.output_norm = nn.LayerNorm(size)
        self.mask_vector = None if causal else nn.Parameter(torch.randn(size) * 0.02)
        if config["attention_start"] == "mean":
            for layer in self.layers:
                layer.start_mean_()  # type: ignore[operator]

    def forward(self, vectors: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Encode item vectors.

        Parameters
        ----------
        vectors : Tensor
            [B, L, d].
        positions : Tensor
            [L, d]; position embeddings.
        valid : Tensor
            bool [B, L]; False on padding.

        Returns
        -------
        Tensor
            [B, L, d]; zero on padding.
        """
        packing = Packing(valid)
        return packing.pad(self.on_packed(packing.pack(vectors), positions, packing, valid))

    def on_packed(
        self, vectors: Tensor, positions: Tensor, packing: Packing, valid: Tensor
    ) -> Tensor:
        """Encode item vectors [n, d] on packed rows: states [n, d]; the rest as in `forward`."""
        states = vectors + look_up(positions, packing.steps)
        states = dropout(self.input_norm(states), self.dropout, self.training)
        for layer in self.layers:
            states = layer(states, packing, valid)
        return self.output_norm(states)


class GRU4Rec(nn.Module):
    """GRU4Rec's recurrent stack; it knows order by itself, positions are added all the same."""

    causal = True
    mask_vector = None

    def __init__(self, config) -> None:
        super().__init__()
        size, self.dropout = config["hidden_size"], config["dropout"]
        self.gru = nn.GRU(size, size, num_layers=config["n_layers"], batch_first=True)
        self.output = nn.Linear(size, size)

    def train(self, mode: bool = True):
        """Switch the mode; the GRU, without dropout of its own, stays in training mode.

        Gradients pass through the frozen backbone in stage 2, and cuDNN refuses them outside it.
        """
        super().train(mode)
        self.gru.train()
        return self

    def forward(self, vectors: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Encode item vectors [B, L, d] into states [B, L, d]."""
        inputs = dropout(vectors + positions, self.dropout, self.training)
        return self.output(self.gru(inputs)[0])


def make_backbone(config) -> Transformer | GRU4Rec:
    """Build the configured backbone.

    Raises
    ------
    KeyError
        Never for a checked configuration: ``backbone`` is one of sasrec, gru4rec, bert4rec.
    """
    if config["backbone"] == "gru4rec":
        return GRU4Rec(config)
    return Transformer(config, causal=config["backbone"] == "sasrec")


def drop_items(vectors: Tensor, share: float) -> Tensor:
    """Blank whole items of an input at random, so that no single one is leant on.

    Parameters
    ----------
    vectors : Tensor
        [..., d].
    share : float
        Probability that an item is blanked.

    Returns
    -------
    Tensor
        [..., d]; unlike dropout, what is kept is not scaled.
    """
    if not share:
        return vectors
    kept = torch.rand(vectors.shape[:-1], device=vectors.device) >= share
    return vectors * kept[..., None]


class SequenceEncoder(nn.Module):
    """A backbone with its position embeddings: from item sequences to user states (eq. 8).

    Parameters
    ----------
    config : mapping
        ``backbone`` and its sizes, ``attention_start`` (GRU4Rec has no attention and ignores it),
        ``dropout``, ``item_dropout`` (share of input items blanked in training) and
        ``mask_ratio`` (share of items that a bidirectional backbone hides).
    max_length : int
        Longest history.
    """

    def __init__(self, config, max_length: int) -> None:
        super().__init__()
        self.item_dropout, self.mask_ratio = config["item_dropout"], config["mask_ratio"]
        self.backbone = make_backbone(config)
        self.positions = nn.Embedding(max_length + 1, config["hidden_size"])
        nn.init.normal_(self.positions.weight, std=0.02)

    @property
    def causal(self) -> bool:
        """Whether each state has seen nothing behind its own step."""
        return self.backbone.causal

    @property
    def mask_vector(self) -> Tensor | None:
        """What stands in the place of a hidden item; None in a causal encoder."""
        return self.backbone.mask_vector

    def encode(self, vectors: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Map vectors of a sequence's items to states, as a backbone does."""
        return self.backbone(vectors, positions, valid)

    def before_targets(
        self,
        lookup,
        sequence: Tensor,
        masked: Tensor,
        positions: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """User states from which each target of a sequence is predicted (eq. 8).

        Parameters
        ----------
        lookup : callable
            Item ids -> vectors.
        sequence : Tensor
            [B, L + 1]; columns ``1:`` are the targets.
        masked : Tensor
            bool [B, L + 1]; items hidden from a bidirectional backbone; a causal one ignores it.
        positions : Tensor, optional
            [>= L + 1, d]; other position embeddings than the encoder's own.
        wanted : Tensor, optional
            bool [B, L]; the first steps of each row, whose states alone are asked for: a causal
            encoder leaves the others out. By default all real ones.

        Returns
        -------
        Tensor
            [B, L, d]; state t has not seen ``sequence[:, t + 1]``.
        """
        positions = self.positions.weight if positions is None else positions
        if self.causal:
            inputs = sequence[:, :-1]
            vectors = self._drop_items(lookup(inputs))
            valid = inputs > 0 if wanted is None else wanted
            return self.encode(vectors, positions[: inputs.shape[1]], valid)
        mask_vector = self.mask_vector
        assert mask_vector is not None
        vectors = torch.where(masked[..., None], mask_vector, lookup(sequence))
        valid = sequence > 0
        valid[:, 0] = True  # an empty row attends to padding: softmax over nothing is NaN
        return self.encode(vectors, positions[: sequence.shape[1]], valid)[:, 1:]

    def packed_before_targets(
        self, lookup, sequence: Tensor, masked: Tensor, wanted: Tensor
    ) -> PackedStates | Tensor:
        """:meth:`before_targets`, left packed where the encoder packs: nothing is padded then."""
        backbone = self.backbone
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

    def _drop_items(self, vectors: Tensor) -> Tensor:
        return drop_items(vectors, self.item_dropout if self.training else 0.0)

    def last(
        self, lookup, sequence: Tensor, lengths: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """State after the last item of each sequence: the user vector of eq. 8.

        Parameters
        ----------
        lookup : callable
            Item ids -> vectors.
        sequence : Tensor
            [B, L]; right-padded item ids.
        lengths : Tensor
            int64 [B]; a user with length 0 gets a state that means nothing.
        positions : Tensor, optional
            As in :meth:`before_targets`.

        Returns
        -------
        Tensor
            [B, d].
        """
        width = max(int(lengths.max()), 1)
        sequence = F.pad(sequence[:, :width], (0, 1))
        steps = torch.arange(width + 1, device=lengths.device)
        after = steps == lengths[:, None]
        if not self.causal:
            sequence = sequence.masked_fill(after, 1)  # any real item: the mask vector hides it
        states = self.before_targets(lookup, sequence, after, positions)
        return states[torch.arange(len(lengths), device=lengths.device), (lengths - 1).clamp(min=0)]

    def choose_targets(self, sequence: Tensor) -> Tensor:
        """Choose the targets to predict: all, or for BERT4Rec a random part and the last one.

        Returns
        -------
        Tensor
            bool, the shape of ``sequence`` [B, L + 1]; never the first item, never padding.
        """
        real = sequence > 0
        chosen = real.clone()
        chosen[:, 0] = False
        if self.causal:
            return chosen
        lengths = real.sum(1)
        steps = torch.arange(sequence.shape[1], device=sequence.device)
        drawn = torch.rand(sequence.shape, device=sequence.device) < self.mask_ratio
        return chosen & (drawn | (steps == lengths[:, None] - 1))
