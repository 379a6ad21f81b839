"""Atomic writes, arrays, tables and the lock of a run."""

import errno
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_edt.errors import DataError
from recbole_edt.io.files import (
    atomic_write,
    read_table,
    read_yaml,
    write_array,
    write_table,
    write_text,
)
from recbole_edt.io.lock import run_lock


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "d.inter"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_killed_writers_are_removed_and_those_of_others_are_not(tmp_path: Path):
    path = tmp_path / "d.inter"
    killed, other = tmp_path / ".d.inter.0123abcd.tmp", tmp_path / ".d.item.0123abcd.tmp"
    killed.touch()
    other.touch()
    with atomic_write(path) as first:
        first.write_text("first")
        with atomic_write(path) as second:  # does not take the first for abandoned
            second.write_text("second")
    assert path.read_text() == "first"
    assert sorted(tmp_path.iterdir()) == [other, path]


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.float16([[1]]), np.ones(0)])
def test_arrays_are_written_as_numpy_writes_them(tmp_path: Path, array):
    write_array(tmp_path / "mine.npy", array)
    np.save(tmp_path / "numpy.npy", array)
    assert (tmp_path / "mine.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_numbers_such_as_1e_3_are_numbers_in_yaml(tmp_path: Path):
    path = tmp_path / "space.yaml"
    path.write_text("a: [1e-3, -2E5, 1.5e3, 1.0e+2, 7]\nb: {low: 1e-4}\nmodel: e5-1e3\n")
    read = {"a": [0.001, -200_000.0, 1500.0, 100.0, 7], "b": {"low": 0.0001}, "model": "e5-1e3"}
    assert read_yaml(path) == read


def test_tables_are_read_as_they_were_written(tmp_path: Path):
    frame = pd.DataFrame({"id": ['"1', "NA"], "text": ["a b", ""], "price": [1.005, 2], "no": 0})
    write_table(frame, {"id": "token", "text": "token_seq", "price": "float"}, tmp_path / "t")
    assert (tmp_path / "t").read_text() == (
        'id:token\ttext:token_seq\tprice:float\n"1\ta b\t1.00\nNA\t\t2.00\n'
    )
    found = read_table(tmp_path / "t")
    assert found.to_dict("list") == {
        "id": ['"1', "NA"], "text": ["a b", ""], "price": ["1.00", "2.00"],
    }  # fmt: skip
    with pytest.raises(DataError, match="missing or empty"):
        read_table(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_systems_without_locks_are_written_to(tmp_path: Path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr("fcntl.flock", flock)
    for text in "ab":
        with run_lock(tmp_path):
            write_text(tmp_path / "d.inter", text)
        assert (tmp_path / "d.inter").read_text() == text


def test_one_run_at_a_time_in_a_folder(tmp_path: Path):
    with run_lock(tmp_path / "new" / "folder"), run_lock(tmp_path):
        with pytest.raises(DataError, match="another run is using"), run_lock(tmp_path):
            pass
    with run_lock(tmp_path):
        pass
