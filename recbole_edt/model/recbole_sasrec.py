"""RecBole's own SASRec as a model that scores by products of user and item vectors.

Its ``full_sort_predict`` spends most of its time on padding and on steps that no score depends on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_edt.model.backbones import multi_head_attention
from recbole_edt.model.kernels import linear
from recbole_edt.model.packing import Packing

if TYPE_CHECKING:
    from recbole.model.sequential_recommender.sasrec import SASRec

_STEPS = 8192  # encoded at a time, so that they stay in the processor's cache


class SASRecVectors:
    """Vectors of a SASRec of RecBole, without dropout."""

    def __init__(self, model: SASRec) -> None:
        self.model = model

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, d]."""
        return self.model.item_embedding.weight

    def user_vectors(self, interaction) -> list[Tensor]:
        """User vectors [B, d] that items of each domain are scored with: one for both."""
        sequences, lengths = interaction[self.model.ITEM_SEQ], interaction[self.model.ITEM_SEQ_LEN]
        vectors = self.item_vectors().new_empty(len(lengths), self.model.hidden_size)
        order = torch.argsort(lengths, stable=True)
        blocks = torch.bincount(lengths[order].cumsum(0) // _STEPS)
        for rows in order.split(blocks[blocks > 0].tolist()):
            mine = lengths[rows]
            sequence = sequences[:, : int(mine[-1])].index_select(0, rows)
            vectors[rows] = self._encode(sequence, mine).to(vectors.dtype)
        return [vectors] * 2

    def _encode(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        model = self.model
        steps = torch.arange(sequence.shape[1], device=lengths.device)
        valid = steps < lengths[:, None]
        packing = Packing(valid)
        states = model.item_embedding(sequence.reshape(-1)[packing.index])
        states = model.LayerNorm(states + model.position_embedding.weight[packing.steps])
        *layers, final = model.trm_encoder.layer
        for layer in layers:
            attention = layer.multi_head_attention
            parts = (attention.query, attention.key, attention.value)
            weight = torch.cat([part.weight for part in parts])
            qkv = linear(states, weight, torch.cat([part.bias for part in parts]))
            mixed = multi_head_attention(qkv, packing, valid, model.n_heads, causal=True)
            states = self._after_attention(layer, mixed, states)
        # only the last state of the last layer is needed
        padded = packing.pad(states)
        last = padded[torch.arange(len(lengths), device=lengths.device), lengths - 1]
        mixed = _attend_from(last, final.multi_head_attention, padded, lengths)
        return self._after_attention(final, mixed, last)

    def _after_attention(self, layer, mixed: Tensor, states: Tensor) -> Tensor:
        """Rest of a layer on [n, d]: output, residuals, norms and feed-forward part."""
        attention, feed_forward = layer.multi_head_attention, layer.feed_forward
        states = attention.LayerNorm(_map(attention.dense, mixed) + states)
        gelu = self.model.hidden_act == "gelu"  # RecBole's own takes five passes
        activate = F.gelu if gelu else feed_forward.intermediate_act_fn
        inner = _map(feed_forward.dense_2, activate(_map(feed_forward.dense_1, states)))
        return feed_forward.LayerNorm(inner + states)


def _map(layer: nn.Linear, states: Tensor) -> Tensor:
    return linear(states, layer.weight, layer.bias)


def _attend_from(last: Tensor, attention, states: Tensor, lengths: Tensor) -> Tensor:
    """Mix [B, L, d] as the last states [B, d] see them: [B, d].

    With one query per sequence, the query is multiplied with W_K and the mixture of states with
    W_V: no key or value is computed per state. The bias of the keys cancels in the softmax.
    """
    n_heads, size = attention.num_attention_heads, attention.attention_head_size
    of_keys, of_values = (
        project.weight.unflatten(0, (n_heads, size)) for project in (attention.key, attention.value)
    )  # [heads, size, d]
    query = _map(attention.query, last).unflatten(-1, (n_heads, size))
    query = torch.einsum("bhs,hsd->bhd", query, of_keys) / attention.sqrt_attention_head_size
    scores = query @ states.transpose(1, 2)  # [B, heads, L]
    steps = torch.arange(states.shape[1], device=lengths.device)
    scores = scores.masked_fill((steps >= lengths[:, None])[:, None], -torch.inf)
    mixed = scores.softmax(-1) @ states  # [B, heads, d]
    return torch.einsum("bhd,hsd->bhs", mixed, of_values).flatten(1) + attention.value.bias
