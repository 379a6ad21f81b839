"""Frozen text embeddings, in memory or in their file, and the coordinates of models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array, csr_array
from torch import Tensor, nn

from recbole_edt.data.embeddings import BLOCK, EmbeddingTable
from recbole_edt.data.sequences import Sequences

_LEAST_SPREAD = 1e-3  # in parts of the mean: axes that vary less are not whitened further
_FURTHEST, _PER_ROW = 5, 0.8  # most rows between the items of a pair; factor of weight per row
_MOST_PAIRS = 2**20  # more are subsampled; it suffices for a few hundred axes
_RIDGE = 1.0  # added to the unit spreads of whitened text: its last axes are mostly noise

_DIVISOR = 256.0
"""Adam moves every weight by about the learning rate, however small its input. Short text vectors
with large weights therefore keep the adapter near its start, which validates better."""


class MappedText:
    """Rows of a text table that stays in its file.

    ``change`` is applied to all rows [n, d_L] but those of padding.
    """

    def __init__(
        self, table: EmbeddingTable, change: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.table, self.change, self.shape = table, change, table.shape

    def __call__(self, ids: Tensor) -> Tensor:
        """Rows of ids [...], on their device: float32 [..., d_L]."""
        flat = ids.reshape(-1).cpu()
        rows = self._changed(self.table[flat.numpy()], flat > 0)
        return rows.to(ids.device).view(*ids.shape, -1)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, a block of ids at a time."""
        for part, rows in self.table.blocks():
            yield part, self._changed(rows, torch.arange(part.start, part.stop) > 0)

    def _changed(self, array: np.ndarray, real: Tensor) -> Tensor:
        rows = torch.from_numpy(array)
        if self.change is not None:
            rows[real] = self.change(rows[real])
        return rows


def row_blocks(text: Tensor | MappedText) -> Iterator[tuple[slice, Tensor]]:
    """Rows of text [n_items, d_L] with their places: in one piece, or mapped ones in blocks."""
    if isinstance(text, MappedText):
        return text.blocks()
    return iter([(slice(0, len(text)), text)])


def text_rows(text: Tensor | MappedText, ids: Tensor) -> Tensor:
    """Rows of ids [...] of a text table, in memory or mapped: [..., d_L]."""
    return text(ids) if isinstance(text, MappedText) else F.embedding(ids, text)


def frozen_text(table: EmbeddingTable) -> Tensor | MappedText:
    """Read a text table into memory (float32 [n, d_L]) if it is small enough, else map it."""
    return torch.from_numpy(table.whole()) if table.fits else MappedText(table)


def add_text(module: nn.Module, name: str, text: Tensor | MappedText | None) -> None:
    """Make frozen text an attribute of a module that checkpoints leave out."""
    if isinstance(text, MappedText):
        setattr(module, name, text)  # not a buffer: the rows stay in the file
    else:
        module.register_buffer(name, text, persistent=False)


# -- principal axes -------------------------------------------------------------------------------


def mean_row(text: Tensor | MappedText, fitted: Tensor) -> Tensor:
    """Mean of the rows of text [n_items, d_L] where ``fitted`` holds: [d_L]."""
    total = torch.zeros(text.shape[1])
    for part, rows in row_blocks(text):
        total = total.to(rows) + rows[fitted[part]].sum(0)
    return total / fitted.sum()


def inner_products(
    text: Tensor | MappedText, fitted: Tensor, centre: Tensor | float = 0.0
) -> Tensor:
    """``X.T @ X`` of the rows X where ``fitted`` holds, minus ``centre``: [d_L, d_L]."""
    total = torch.zeros(())
    for part, rows in row_blocks(text):
        own = rows[fitted[part]] - centre
        total = total.to(own.device) + own.T @ own
    return total


@torch.no_grad()
def principal_directions(products: Tensor) -> Tensor:
    """Principal directions of centred vectors X from ``X.T @ X``: columns [k, k], largest first."""
    _, directions = torch.linalg.eigh(products.double().cpu())  # smallest first
    return _signed(directions.flip(1)).to(products)


def _signed(axes: Tensor) -> Tensor:
    """Make the largest entry of each axis (column) positive: eigenvector signs are arbitrary."""
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return torch.where(largest < 0, -axes, axes)


def principal_components(text: Tensor | MappedText, fitted: Tensor, size: int) -> Tensor:
    """First principal components of text [n_items, d_L]: float32 [n_items, min(size, d_L)].

    Centre and directions are those of ``fitted`` rows; row 0 (padding) is zero.
    """
    centre = mean_row(text, fitted)
    directions = principal_directions(inner_products(text, fitted, centre))[:, :size]
    components = torch.cat([(rows - centre) @ directions for _, rows in row_blocks(text)])
    components[0] = 0
    return components


class Standardised(nn.Module):
    """Centres rows [n, d_L] and scales their entries to unit root mean square.

    Sentence vectors share one large common part and have small entries, which Adam's steps of fixed
    size follow slowly. Centre and scale are those of ``fitted`` rows; alike ones are not scaled.
    """

    centre: Tensor  # [d_L]
    spread: Tensor  # []

    def __init__(self, text: Tensor | MappedText, fitted: Tensor) -> None:
        super().__init__()
        centre = mean_row(text, fitted)
        square = torch.zeros((), device=centre.device)
        for part, rows in row_blocks(text):
            square += (rows[fitted[part]] - centre).square().sum()
        spread = (square / fitted.sum() / text.shape[1]).sqrt()
        self.register_buffer("centre", centre)
        self.register_buffer("spread", torch.where(spread > 0, spread, 1.0))

    def forward(self, rows: Tensor) -> Tensor:
        """Change rows [n, d_L]."""
        return (rows - self.centre) / self.spread


# -- canonical axes -------------------------------------------------------------------------------


class ItemPairs:
    """Pairs of items of one domain that users have near each other in their training sequences.

    Inserted rows are skipped. ``item_domain`` is int64 [n_items], -1 for padding.
    """

    def __init__(self, sequences: Sequences, item_domain: np.ndarray) -> None:
        self.sequences, self.item_domain = sequences, item_domain

    @cached_property
    def weights(self) -> csr_array:
        """Counts of the second item after the first, [n_items, n_items]; nearer pairs weigh more.

        Of very many pairs a sample, the same each time.
        """
        rows = self.sequences.keep(~self.sequences.augmented)
        items, gaps = rows.items, range(1, _FURTHEST + 1)
        group = rows.users * 2 + self.item_domain[items]

        def firsts(gap: int) -> np.ndarray:
            return np.flatnonzero(group[:-gap] == group[gap:])

        n = sum(len(firsts(gap)) for gap in gaps)
        rng = np.random.default_rng(0)
        shape = (len(self.item_domain), len(self.item_domain))
        total = csr_array(shape)
        for gap in gaps:
            at = firsts(gap)
            if n > _MOST_PAIRS:
                at = at[rng.random(len(at)) < _MOST_PAIRS / n]
            weights = np.full(len(at), _PER_ROW ** (gap - 1))
            total = total + csr_array((weights, (items[at], items[at + gap])), shape)
        return total

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, csr_array]]:
        """All pairs in parts: distinct first items, distinct second items, weights of sum one."""
        pairs = coo_array(self.weights)
        shares = pairs.data / pairs.data.sum()
        for start in range(0, len(shares), BLOCK):
            part = slice(start, start + BLOCK)
            first, one = np.unique(pairs.row[part], return_inverse=True)
            second, other = np.unique(pairs.col[part], return_inverse=True)
            weights = csr_array((shares[part], (one, other)), (len(first), len(second)))
            yield first.astype(np.int64), second.astype(np.int64), weights


class Canonical(nn.Module):
    """Turns text embeddings into the coordinates of their canonical axes (Hotelling, 1936).

    Text is whitened first: sentence vectors share one large common part and a few axes along which
    all of them differ. Canonical axes are the directions along which the text of items that users
    have near each other agrees most; without pairs, text is whitened alone. Each is scaled by the
    root of its correlation: the product of two items is the prediction of one text from the other,
    by ridge regression over the pairs.

    Centre and axes are those of the ``fitted`` rows of ``text`` [n_items, d_L]; the length of a row
    is measured by its first ``size`` axes.
    """

    centre: Tensor  # [d_L]
    map: Tensor  # [d_L, d_L]

    def __init__(
        self, text: Tensor | MappedText, fitted: Tensor, size: int, pairs: ItemPairs
    ) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("centre", mean_row(text, fitted))
        products = inner_products(text, fitted, self.centre)
        axes = principal_directions(products)
        spreads = ((axes * (products @ axes)).sum(0).clamp(min=0) / int(fitted.sum())).sqrt()
        least = _LEAST_SPREAD * float(spreads.square().mean().sqrt())
        self.register_buffer("map", axes / spreads.clamp(min=least or 1.0))  # whitening
        both = pairs.weights.sum(0) + pairs.weights.sum(1)
        if not both.any():
            return
        shares = torch.from_numpy(both / both.sum())  # of each item in both sides of all pairs
        within = torch.zeros(len(self.map), len(self.map), dtype=torch.float64)
        between = torch.zeros_like(within)
        for part, rows in row_blocks(text):
            white = self.coordinates(rows).double()
            within += white.T @ (white * shares[part, None])
        for first, second, weights in pairs.parts():
            one = self.coordinates(text_rows(text, torch.from_numpy(first))).double()
            other = self.coordinates(text_rows(text, torch.from_numpy(second))).double()
            between += one.T @ torch.from_numpy(weights @ other.numpy())
        self.map = self.map @ canonical_axes(within, between).to(self.map)

    def forward(self, rows: Tensor) -> Tensor:
        """Change rows [n, d_L]; their parts on the leading axes get the same length."""
        rows = self.coordinates(rows)
        length = torch.linalg.vector_norm(rows[:, : self.size], dim=1, keepdim=True)
        return rows / length.clamp(min=1e-6) * (self.size**0.5 / _DIVISOR)

    def coordinates(self, rows: Tensor) -> Tensor:
        """Coordinates of rows [n, d_L], not normalised to one length."""
        return (rows - self.centre) @ self.map


def canonical_axes(within: Tensor, between: Tensor) -> Tensor:
    """Canonical axes of pairs of vectors x, y in either order: columns [k, k], best first.

    ``within`` and ``between`` are float64 [k, k]: mean of ``x x.T`` over both sides of the pairs,
    and of ``x y.T``. Each axis is scaled by the root of its correlation; zero if this is negative.
    """
    eye = torch.eye(len(within), dtype=within.dtype)
    root = torch.linalg.cholesky(within + _RIDGE * eye)
    unit = torch.linalg.solve_triangular(root, eye, upper=False)
    correlations, axes = torch.linalg.eigh(unit @ (between + between.T) @ unit.T / 2)
    return _signed((unit.T @ axes * correlations.clamp(min=0).sqrt()).flip(1))


# -- starts ---------------------------------------------------------------------------------------


def start_components(
    start: str, text: Tensor | MappedText, fitted: Tensor, size: int, pairs: ItemPairs
) -> Tensor:
    """Leading coordinates of text that id vectors start as, float32 [n_items, <= size]."""
    if start == "principal":
        return principal_components(text, fitted, size)
    change = Canonical(text, fitted, size, pairs)
    components = torch.cat([change(rows)[:, :size] for _, rows in row_blocks(text)])
    components[0] = 0
    return components


def text_change(
    start: str, text: Tensor | MappedText, fitted: Tensor, size: int, pairs: ItemPairs
) -> nn.Module:
    """Fit what standardises text (``principal``), or turns it into canonical coordinates."""
    canonical = start == "canonical"
    return Canonical(text, fitted, size, pairs) if canonical else Standardised(text, fitted)


def changed_text(text: Tensor | MappedText, change: nn.Module) -> Tensor | MappedText:
    """Apply a change to all rows but that of padding; in place in memory, on demand if mapped."""
    if isinstance(text, MappedText):
        # a copy: the rows stay in main memory, wherever the model goes
        return MappedText(text.table, copy.deepcopy(change))
    text[1:] = change(text[1:])
    return text
