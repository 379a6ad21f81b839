"""Embeddings by id: rows of a mapped file, in the file's own type."""

import numpy as np
import pytest

from recbole_edt.data import embeddings
from recbole_edt.data.embeddings import EmbeddingTable


@pytest.fixture
def matrix(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(12, dtype=np.float16).reshape(4, 3))
    return np.load(tmp_path / "m.npy", mmap_mode="r")


def test_ids_get_the_rows_of_their_lines_and_none_a_zero_row(matrix):
    table = EmbeddingTable(matrix, np.array([-1, 2, 0]))
    assert table.shape == (3, 3)
    expected = np.array([[6, 7, 8], [0, 0, 0], [0, 1, 2], [6, 7, 8]], dtype=np.float32)
    rows = table[np.array([1, 0, 2, 1])]
    assert rows.dtype == np.float32 and (rows == expected).all()
    assert isinstance(table.matrix, np.memmap) and table.matrix.dtype == np.float16


def test_all_rows_pass_by_in_blocks(matrix, monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK", 2)
    table = EmbeddingTable(matrix, np.array([-1, 3, 1]))
    blocks = list(table.blocks())
    assert [(part.start, part.stop) for part, _ in blocks] == [(0, 2), (2, 3)]
    assert (np.concatenate([rows for _, rows in blocks]) == table.whole()).all()


def test_what_fits_is_counted_in_float32_over_all_ids(matrix):
    lines = np.array([-1, 0, 1])  # 3 rows of 3 numbers of 4 bytes
    assert EmbeddingTable(matrix, lines).fits
    assert EmbeddingTable(matrix, lines, 36).fits
    assert not EmbeddingTable(matrix, lines, 35).fits
