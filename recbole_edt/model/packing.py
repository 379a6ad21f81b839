"""Packed rows: the real steps of a padded batch side by side, in tiles of several sequences."""

from __future__ import annotations

from collections import defaultdict
from itertools import accumulate, groupby

import torch
from torch import Tensor

from recbole_edt.model.kernels import rounded_rows, take_rows_each

_TILE = 32  # most steps of a tile of short sequences: attention looks at all pairs of a tile
_TILE_STEP = 16  # sizes are multiples, so that short sequences fill the space that long ones leave


def _has_tiles(device: torch.device) -> bool:
    return device.type == "cpu"


class Packing:
    """Packing of the real steps of a padded batch.

    Everything that treats steps alone runs on packed rows [n, d]. Where attention takes tiles of
    several sequences, rows are in the order of the tiles, and a few stay empty; elsewhere attention
    sees the padded batch.

    ``valid`` is bool [B, L], False on padding, which comes after the real steps.

    Attributes
    ----------
    index : Tensor
        int64 [n]; place of each row in the flattened batch, arbitrary for an empty row.
    real : Tensor
        int64 [n_real]; the rows that are not empty.
    places : Tensor
        int64 [n_real]; their places in the flattened batch.
    tiles : list of (int, int) or None
        Numbers and sizes of consecutive tiles; None on a device whose attention is padded.
    """

    def __init__(self, valid: Tensor) -> None:
        self.shape = valid.shape
        self.tiles: list[tuple[int, int]] | None = None
        row, step = torch.nonzero(valid, as_tuple=True)
        self.places = row * valid.shape[1] + step
        if not _has_tiles(valid.device):
            self.index = self.places
            self.real = torch.arange(len(row), device=valid.device)
            return
        starts, self.tiles = tile_sequences(valid.sum(1).tolist())
        n = rounded_rows(sum(n * size for n, size in self.tiles))
        self.real = torch.tensor(starts, dtype=torch.int64)[row] + step
        self.index = torch.zeros(n, dtype=torch.int64)
        self.index[self.real] = self.places
        # an empty row attends to itself: softmax over an all-masked row is NaN
        self._sequence = torch.arange(-n, 0)
        self._sequence[self.real] = row
        self._masks: dict[tuple[bool, torch.dtype], list[Tensor]] = {}

    @property
    def steps(self) -> Tensor:
        """Step of each row in its sequence, int64 [n]."""
        return self.index % self.shape[1]

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L, d] -> [n, d], zero in empty rows."""
        (rows,) = take_rows_each(padded.reshape(-1, padded.shape[-1]), self.places)
        return rows.new_zeros(len(self.index), rows.shape[1]).index_copy(0, self.real, rows)

    def pad(self, packed: Tensor) -> Tensor:
        """[n, d] -> [B, L, d], zero on padding."""
        (rows,) = take_rows_each(packed, self.real)
        flat = packed.new_zeros(self.shape.numel(), packed.shape[-1])
        return flat.index_copy(0, self.places, rows).view(*self.shape, -1)

    def masks(self, causal: bool, dtype: torch.dtype) -> list[Tensor]:
        """What :func:`~recbole_edt.model.kernels.tiled_attention` adds to its logits."""
        assert self.tiles is not None
        if (causal, dtype) not in self._masks:
            self._masks[causal, dtype] = tile_masks(self._sequence, self.tiles, causal, dtype)
        return self._masks[causal, dtype]


class PackedStates:
    """States [n, d] of the real steps of a batch."""

    def __init__(self, packed: Tensor, packing: Packing) -> None:
        self.packed, self.packing = packed, packing

    def __call__(self, *places: Tensor) -> tuple[Tensor, ...]:
        """States at places of the flattened batch, all of real steps: [m, d] for each int64 [m]."""
        rows = self.packing.places.new_zeros(self.packing.shape.numel())
        rows[self.packing.places] = self.packing.real
        return take_rows_each(self.packed, *(rows[place] for place in places))

    def padded(self) -> Tensor:
        """[B, L, d]; zero on padding."""
        return self.packing.pad(self.packed)


def tile_sequences(lengths: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Put sequences of unequal length side by side into tiles, with little space left over.

    The longest come first; each goes where it leaves the least space, or opens a tile.

    Returns
    -------
    starts : list of int
        First row of each sequence when all tiles lie one after the other; 0 for an empty one.
    tiles : list of (int, int)
        Numbers and sizes of consecutive tiles.
    """
    real = [length for length in lengths if length]
    even = not real or max(real) - min(real) < _TILE_STEP
    step = 1 if even else _TILE_STEP  # sequences nearly alike have none among them to fill up
    sizes: list[int] = []
    opened: dict[int, list[int]] = defaultdict(list)  # tiles by the space that they have left
    spaces = 0  # bit n: there is a tile with n steps left
    placed: list[tuple[int, int] | None] = [None] * len(lengths)
    for sequence in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[sequence]
        if not length:
            break
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            tile = opened[space].pop()
            if not opened[space]:
                spaces ^= 1 << space
        else:
            space = -(-length * max(_TILE // length, 1) // step) * step
            tile = len(sizes)
            sizes.append(space)
        placed[sequence] = tile, sizes[tile] - space
        left = space - length
        if left:
            opened[left].append(tile)
            spaces |= 1 << left
    first = list(accumulate(sizes, initial=0))
    starts = [0 if place is None else first[place[0]] + place[1] for place in placed]
    return starts, [(len(list(same)), size) for size, same in groupby(sizes)]


def tile_masks(
    sequence: Tensor, tiles: list[tuple[int, int]], causal: bool, dtype: torch.dtype
) -> list[Tensor]:
    """Add to the logits of tiles: zero within a sequence (causal: up to the step), else -inf.

    ``sequence``, int64 [>= n_rows], is the sequence of each row; empty rows have numbers of their
    own. Returns [n_tiles, 1, size, size] for each size of ``tiles``.
    """
    masks, start = [], 0
    for n, size in tiles:
        mine = sequence[start : start + n * size].view(n, size)
        start += n * size
        seen = mine[:, :, None] == mine[:, None, :]
        if causal:
            seen = seen.tril_()
        mask = torch.full(seen.shape, -torch.inf, dtype=dtype)
        masks.append(mask.masked_fill_(seen, 0.0)[:, None])
    return masks
