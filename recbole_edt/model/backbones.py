"""Sequence backbones (table 10): SASRec, GRU4Rec and BERT4Rec, on right-padded sequences.

In a causal backbone the state at step t has seen the items up to t and predicts the item at t + 1;
in a bidirectional one the state at a masked step predicts the item that was there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_edt.errors import ConfigError
from recbole_edt.model.kernels import Linear, add_dropout, dropout, look_up, tiled_attention
from recbole_edt.model.packing import Packing
from recbole_edt.settings import declared


def multi_head_attention(
    qkv: Tensor, packing: Packing, valid: Tensor, n_heads: int, causal: bool
) -> Tensor:
    """Scaled dot-product attention within sequences, before the output layer: [n, d].

    ``qkv`` [n, 3 d] holds queries, keys and values of packed steps side by side; ``valid`` is
    bool [B, L], False on padding.
    """
    if packing.tiles is not None:
        return tiled_attention(qkv, packing.tiles, packing.masks(causal, qkv.dtype), n_heads)
    batch, length = packing.shape
    padded = packing.pad(qkv).view(batch, length, 3, n_heads, -1)
    query, key, value = padded.permute(2, 0, 3, 1, 4)  # each [B, heads, L, d / heads]
    # causal attention needs no mask: right padding comes after every real step
    mask = None if causal else valid[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    return packing.pack(mixed.transpose(1, 2).reshape(batch, length, -1))


# of a layer that starts as a mean
_MEAN_SHARE = 0.5  # weight of the history; the step itself has one
_SMALL_START = 0.1  # factor on the random start of queries, keys and feed-forward weights


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
        """Start as ``state + _MEAN_SHARE * mean of the states attended to`` plus small terms.

        With item vectors that start from text, a state then starts near the items of its history.
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
        inner_size = declared(config, "inner_size", 2 * size)
        self.layers = nn.ModuleList(
            TransformerLayer(size, config["n_heads"], inner_size, self.dropout, causal)
            for _ in range(config["n_layers"])
        )
        self.input_norm = nn.LayerNorm(size)
        self.output_norm = nn.LayerNorm(size)
        self.mask_vector = None if causal else nn.Parameter(torch.randn(size) * 0.02)
        if declared(config, "attention_start", "mean") == "mean":
            for layer in self.layers:
                layer.start_mean_()  # type: ignore[operator]

    def forward(self, vectors: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Encode item vectors [B, L, d] and positions [L, d] into states; zero if not ``valid``."""
        packing = Packing(valid)
        return packing.pad(self.on_packed(packing.pack(vectors), positions, packing, valid))

    def on_packed(
        self, vectors: Tensor, positions: Tensor, packing: Packing, valid: Tensor
    ) -> Tensor:
        """Encode item vectors [n, d] on packed rows into states [n, d]."""
        states = vectors + look_up(positions, packing.steps)
        states = dropout(self.input_norm(states), self.dropout, self.training)
        for layer in self.layers:
            states = layer(states, packing, valid)
        return self.output_norm(states)


class GRU4Rec(nn.Module):
    """GRU4Rec's recurrent stack; positions are added although it already encodes order."""

    causal = True
    mask_vector = None

    def __init__(self, config) -> None:
        super().__init__()
        size, self.dropout = config["hidden_size"], config["dropout"]
        self.gru = nn.GRU(size, size, num_layers=config["n_layers"], batch_first=True)
        self.output = nn.Linear(size, size)

    def train(self, mode: bool = True):
        """Switch the mode; the GRU (without dropout) stays in training mode.

        cuDNN passes no gradients through a GRU in evaluation mode, and stage 2 needs them.
        """
        super().train(mode)
        self.gru.train()
        return self

    def forward(self, vectors: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Encode item vectors [B, L, d] into states [B, L, d]."""
        inputs = dropout(vectors + positions, self.dropout, self.training)
        return self.output(self.gru(inputs)[0])


BACKBONES: dict[str, Callable[[Any], nn.Module]] = {
    "sasrec": lambda config: Transformer(config, causal=True),
    "gru4rec": GRU4Rec,
    "bert4rec": lambda config: Transformer(config, causal=False),
}


def register_backbone(name: str, make: Callable[[Any], nn.Module]) -> None:
    """Add a backbone, such as a class, under a name for ``backbone:``.

    ``make`` maps a configuration to a module with ``forward(vectors [B, L, d], positions [L, d],
    valid bool [B, L]) -> states [B, L, d]``, the attribute ``causal``, and ``mask_vector``: None,
    or a Parameter [d] in place of the items that a bidirectional backbone must predict.
    """
    BACKBONES[name] = make


def make_backbone(config) -> nn.Module:
    """Build the configured backbone; a ConfigError names those that are registered."""
    name = declared(config, "backbone", "sasrec")
    if name not in BACKBONES:
        raise ConfigError(f"backbone '{name}' is not one of {', '.join(BACKBONES)}")
    return BACKBONES[name](config)
