"""Embeddings by id, read from a memory-mapped file on demand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 65_536  # rows that are read at a time where a whole table is read
IN_MEMORY = 512 * 2**20  # bytes of float32 rows up to which a model keeps a table in memory


class EmbeddingTable:
    """Rows of an embedding file in the order of ids; the file stays on disk, in its own type.

    Parameters
    ----------
    matrix : np.ndarray
        Any float type [n_lines, d_L]; usually mapped from its file.
    lines : np.ndarray
        int64 [n_ids]; line of each id, -1 for an id without one, whose row is zero.
    """

    def __init__(self, matrix: np.ndarray, lines: np.ndarray) -> None:
        self.matrix, self.lines = matrix, lines

    @property
    def shape(self) -> tuple[int, int]:
        """Number of ids and size of a row."""
        return len(self.lines), self.matrix.shape[1]

    @property
    def fits(self) -> bool:
        """Whether all rows, as float32, are within :data:`IN_MEMORY`."""
        return 4 * self.shape[0] * self.shape[1] <= IN_MEMORY

    def __getitem__(self, ids: np.ndarray | slice) -> np.ndarray:
        """Rows of ids [n], or of a range of them: float32 [n, d_L]."""
        lines = self.lines[ids]
        out = np.zeros((len(lines), self.matrix.shape[1]), dtype=np.float32)
        out[lines >= 0] = self.matrix[lines[lines >= 0]]
        return out

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Iterate over all rows, a block of ids at a time."""
        for start in range(0, len(self.lines), BLOCK):
            part = slice(start, min(start + BLOCK, len(self.lines)))
            yield part, self[part]

    def whole(self) -> np.ndarray:
        """All rows in memory, float32 [n_ids, d_L]."""
        out = np.empty(self.shape, dtype=np.float32)
        for part, rows in self.blocks():
            out[part] = rows
        return out
