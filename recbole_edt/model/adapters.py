"""Adapters (eqs. 7, 10): two linear layers, or a bottleneck with residual; what they start as."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_edt.errors import DataError
from recbole_edt.model.kernels import linear
from recbole_edt.model.text import MappedText, inner_products, mean_row, principal_directions

_INNER_START = 16.0  # canonical text is short: large weights keep Adam near the start
_START_SCALE = 0.25  # of a principal start; 0.1 ranks whole domains worse (validation, cloth_sport)


class LinearAdapter(nn.Module):
    """Two linear layers with nothing between them: ``W1 (W2 e + b2) + b1`` (eqs. 7, 10).

    The two layers are folded into one matrix before the inputs are multiplied; this changes neither
    parameters nor gradients.
    """

    def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        if not n_hidden:  # half of n_in
            raise DataError("vectors of one number cannot be halved: they need at least two")
        self.inner = nn.Linear(n_in, n_hidden)
        self.outer = nn.Linear(n_hidden, n_out)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., n_in] to [..., n_out]."""
        weight = linear(self.outer.weight, self.inner.weight.T)  # [n_out, n_in]
        bias = self.outer.weight @ self.inner.bias + self.outer.bias
        return linear(inputs, weight, bias)


class ResidualAdapter(nn.Module):
    """Bottleneck with activation and residual, ``s h + W1 ReLU(W2 h)``.

    It starts as the identity; ``scale`` (s) is not trained.
    """

    def __init__(self, n_in: int, n_hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(n_in, n_hidden)
        self.outer = nn.Linear(n_hidden, n_in)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., n_in] to [..., n_in]."""
        return self.scale * inputs + self.outer(torch.relu(self.inner(inputs)))


@torch.no_grad()
def start_principal_(adapter: LinearAdapter, text: Tensor | MappedText, fitted: Tensor) -> None:
    """Start an adapter as the projection of centred text onto its principal directions."""
    directions = principal_directions(inner_products(text, fitted))
    nn.init.zeros_(adapter.inner.bias)
    nn.init.zeros_(adapter.outer.bias)
    adapter.inner.weight.copy_(directions[:, : adapter.inner.out_features].T)
    nn.init.eye_(adapter.outer.weight).mul_(_START_SCALE)


@torch.no_grad()
def start_leading_(adapter: LinearAdapter) -> None:
    """Start the adapter so that it selects the leading canonical coordinates."""
    nn.init.zeros_(adapter.inner.bias)
    nn.init.zeros_(adapter.outer.bias)
    nn.init.eye_(adapter.inner.weight).mul_(_INNER_START)
    nn.init.eye_(adapter.outer.weight)


@torch.no_grad()
def start_projection_(adapter: LinearAdapter, vectors: Tensor, fitted: Tensor) -> None:
    """Start an adapter with n_in = n_out as the projection onto the leading axes of vectors [n, d].

    Of all maps through the bottleneck, it changes the products with those vectors least. Axes are
    those of the ``fitted`` rows; without any, the adapter stays as it is.
    """
    if not fitted.any():
        return
    products = inner_products(vectors, fitted, mean_row(vectors, fitted))
    axes = principal_directions(products)[:, : adapter.inner.out_features]
    for parameter in (adapter.inner.bias, adapter.outer.weight, adapter.outer.bias):
        nn.init.zeros_(parameter)
    adapter.inner.weight[: axes.shape[1]] = axes.T
    adapter.outer.weight[:, : axes.shape[1]] = axes
