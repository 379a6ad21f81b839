"""Packed rows: tiles hold every sequence once, and what is packed comes back padded."""

import pytest
import torch

from recbole_edt.model import packing
from recbole_edt.model.packing import PackedStates, Packing


def test_tiles_hold_every_sequence_once_and_waste_little() -> None:
    lengths = [0, 2, 50, 7, 31, 2, 33, 5, 9, 0, 12, 3] * 20
    starts, tiles = packing.tile_sequences(lengths)
    n_rows = sum(n * size for n, size in tiles)
    rows = [start + step for start, n in zip(starts, lengths, strict=True) for step in range(n)]
    assert len(set(rows)) == len(rows) == sum(lengths)
    edges = {0}
    for n, size in tiles:
        first = max(edges)
        edges |= {first + (k + 1) * size for k in range(n)}
    inside = [
        not edges & set(range(start + 1, start + n))
        for start, n in zip(starts, lengths, strict=True)
    ]
    assert all(inside)
    assert n_rows < 1.03 * sum(lengths)


@pytest.mark.parametrize("tiled", [True, False])
def test_packed_rows_come_back_in_their_places(tiled, monkeypatch) -> None:
    monkeypatch.setattr(packing, "_has_tiles", lambda device: tiled)
    lengths = torch.tensor([3, 0, 40, 1])
    valid = torch.arange(40) < lengths[:, None]
    padded = torch.randn(4, 40, 2) * valid[..., None]
    made = Packing(valid)
    assert (made.tiles is not None) == tiled
    packed = made.pack(padded)
    assert torch.equal(made.pad(packed), padded)
    assert torch.equal(PackedStates(packed, made).padded(), padded)
    first, second = torch.nonzero(valid.reshape(-1)).squeeze(1).split([10, 34])
    found = PackedStates(packed, made)(first, second)
    assert torch.equal(torch.cat(found), padded.view(-1, 2)[torch.cat([first, second])])
