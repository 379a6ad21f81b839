"""Item vectors that a batch needs, each computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_edt.model.kernels import look_up, look_up_each, rounded_rows


class Lookup:
    """Vectors [n, d] of items; ``slot`` int64 [n_items] is the row of each, by default its id."""

    def __init__(self, vectors: Tensor, slot: Tensor | None = None) -> None:
        self.vectors, self.slot = vectors, slot

    def _rows(self, items: Tensor) -> Tensor:
        return items if self.slot is None else self.slot[items]

    def __call__(self, items: Tensor) -> Tensor:
        """Look ids [...] up: [..., d]."""
        return look_up(self.vectors, self._rows(items))

    def each(self, *items: Tensor) -> tuple[Tensor, ...]:
        """Look several ids [m] up, [m, d] each; the vectors get one gradient from all of them."""
        return look_up_each(self.vectors, *map(self._rows, items))

    def columns(self, start: int, stop: int) -> Lookup:
        """Lookup of a part of each vector: ids [...] -> [..., stop - start]."""
        return Lookup(self.vectors[:, start:stop], self.slot)


class ItemLookup(Lookup):
    """Lookup of all ids in ``items``; ``embedding`` maps distinct ids [n] to vectors [n, d]."""

    def __init__(self, embedding: Callable[[Tensor], Tensor], n_items: int, *items: Tensor) -> None:
        wanted = torch.zeros(n_items, dtype=torch.bool, device=items[0].device)
        wanted[0] = True  # padding is always included
        for ids in items:
            wanted[ids.reshape(-1)] = True
        distinct = torch.nonzero(wanted).squeeze(1)
        # padded to a number of rows that fast products take whole
        distinct = F.pad(distinct, (0, rounded_rows(len(distinct)) - len(distinct)))
        super().__init__(embedding(distinct), torch.cumsum(wanted, 0) - 1)
