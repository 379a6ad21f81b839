"""The data contract: what is wrong with a file is said in one line that names it."""

import re

import numpy as np
import pandas as pd
import pytest

from recbole_edt.errors import DataError
from recbole_edt.io.atomic import (
    REQUIRED,
    check_files,
    check_frames,
    domain_names,
    flag_column,
    load_embeddings,
    read_columns,
)


@pytest.fixture
def folder(write_dataset, tmp_path):
    """Folder of a sound dataset ``tiny``."""
    return write_dataset(tmp_path) / "tiny"


def refused(match: str):
    """Expect one line, from a pattern in which dots stand for themselves."""
    return pytest.raises(DataError, match=r"\A[^\n]*" + re.escape(match) + r"[^\n]*\Z")


@pytest.mark.parametrize("suffix", ["inter", "item"])
def test_broken_files(folder, suffix):
    check_files(folder, "tiny")
    path = folder / f"tiny.{suffix}"
    header, *rows = path.read_bytes().splitlines()
    first, *others = header.split(b"\t")
    good = header + b"\n" + rows[0]
    for content, message in {
        b"\t".join(others) + b"\n" + rows[0]: f"has no column '{first.decode()}'",
        good.replace(b":token", b"", 1): f"has no column '{first.decode()}'",
        header + b"\t" + first + b"\n" + rows[0] + b"\tx": "has two columns",
        good + b"\tx": ": line 2 has",
        good + b"\n" + rows[0].partition(b"\t")[0]: ": line 3 has 1 fields",
        good + b"\0": ": line 2 holds a NUL byte",
        good + b"\rx": ": line 2 holds a carriage return",
        header + b"\n": "has no rows",
        header + b"\n\r\n \n": "has no rows",
        b"": "is empty",
        b"\xff\xfe\x00\x80\n": "is not UTF-8 text (line 1)",
    }.items():
        path.write_bytes(content)
        with refused(f"tiny.{suffix} {message}".replace(" :", ":")):
            check_files(folder, "tiny")
    path.write_bytes(b"\xef\xbb\xbf" + good.replace(b"\n", b"\r\n") + b"\r\n\n")
    check_files(folder, "tiny")


def test_the_user_file_may_be_missing_but_not_broken(folder):
    (folder / "tiny.user").write_text("name:token\nx\n")
    with refused("tiny.user has no column 'user_id:token'"):
        check_files(folder, "tiny")
    with refused("there is no dataset 'tiny'"):
        check_files(folder / "elsewhere", "tiny")
    with refused("other.inter is missing"):
        check_files(folder, "other")


@pytest.mark.parametrize(
    ("suffix", "wrong", "right"),
    [
        ("inter", "position:token", "position:float"),
        ("inter", "augmented:float", "augmented:token"),
        ("item", "generated:token_seq", "generated:token"),
    ],
)
def test_an_optional_column_has_its_type(folder, suffix, wrong, right):
    columns = [*REQUIRED[suffix], wrong]
    rows = ["\t".join(columns), "\t".join("1" * len(columns))]
    (folder / f"tiny.{suffix}").write_text("\n".join(rows))
    name = right.partition(":")[0]
    with refused(f"tiny.{suffix}: column '{name}' must be '{right}'"):
        check_files(folder, "tiny")


def test_columns_are_read_by_name(folder):
    path = folder / "tiny.inter"
    assert read_columns(path, {"position", "item_id"}) == {"item_id": "token", "position": "float"}
    path.write_text("item_id:token\tsome:thing:float\n")
    assert read_columns(path, None) == {"item_id": "token", "some:thing": "float"}
    for column in ("price", "price:number", ":float"):
        path.write_text(f"item_id:token\t{column}\n")
        with refused(f"column '{column}' is not of the form name:type"):
            read_columns(path, None)


def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = [("u", "a", 1.0, 0.0), ("u", "b", 2.0, 1.0), ("v", "a", 3.0, 0.0)]
    inter = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "position"])
    return inter, pd.DataFrame({"item_id": ["a", "b"], "domain": ["x", "y"]})


@pytest.mark.parametrize(
    ("file", "column", "value", "message"),
    [
        *(("inter", c, None, f"tiny.inter: 1 rows have no {c} (the first is row 2)")
          for c in ("user_id", "item_id", "timestamp", "position")),
        ("inter", "timestamp", np.inf, "a timestamp is not finite (row 2)"),
        ("inter", "position", -np.inf, "a position is not finite"),
        ("inter", "user_id", "x" * 1001, "a user_id has 1,001 characters, more than 1,000"),
        ("inter", "item_id", "c", "1 rows name items that tiny.item does not list (such as 'c')"),
        ("item", "item_id", None, "tiny.item: 1 rows have no item_id"),
        ("item", "domain", None, "tiny.item: 1 rows have no domain"),
        ("item", "item_id", "a", "1 rows repeat an item_id (such as 'a'): leave one"),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_break_the_contract(file, column, value, message):
    inter, item = frames()
    check_frames(inter, item, "tiny")
    (inter if file == "inter" else item).loc[1, column] = value
    with refused(message):
        check_frames(inter, item, "tiny")


@pytest.mark.parametrize("later, told", [(1.7e9, ""), (1.7e12, "milliseconds"), (1.7e15, "micros")])
def test_times_of_two_units_are_refused(later, told):
    inter, item = frames()
    inter["timestamp"] = [1.6e9, 1.6e9, later]
    if not told:
        return check_frames(inter, item, "tiny")
    with refused(f"tiny.inter: timestamp holds seconds (such as row 1) and {told}"):
        check_frames(inter, item, "tiny")


def test_domains():
    item = frames()[1]
    assert domain_names(item, None, "tiny") == ["x", "y"]
    assert domain_names(item, ["y", "x"], "tiny") == ["y", "x"]
    with refused("unknown domain 'z': tiny.item has x and y"):
        domain_names(item, ["x", "z"], "tiny")
    with refused("must name both x and y"):
        domain_names(item, ["x", "x"], "tiny")
    with refused("names 1 domains (x); exactly two"):
        domain_names(item[:1], None, "tiny")


def test_flags():
    frame = pd.DataFrame({"augmented": ["0", "1"], "other": ["0", "2"]})
    assert flag_column(frame, "augmented", "tiny").tolist() == [False, True]
    assert flag_column(frame, "generated", "tiny").tolist() == [False, False]
    with refused("column 'other' holds values other than 0 and 1"):
        flag_column(frame, "other", "tiny")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_embeddings_of_any_float_type_are_mapped(tmp_path, dtype):
    matrix = np.arange(6, dtype=dtype).reshape(3, 2)
    np.save(tmp_path / "e.npy", matrix)
    found = load_embeddings(tmp_path / "e.npy", 3, "item")
    assert isinstance(found, np.memmap) and (found == matrix).all()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((4, 2)), "has 4 rows, but there are 3 items"),
        (np.ones((3, 2), dtype=np.int64), "must hold a float matrix"),
        (np.ones(3), "must hold a float matrix"),
        (np.array([[1.0], [np.nan], [1.0]]), "holds values that are not finite"),
        (np.array([[1.0], [-1e30], [1.0]]), "holds values beyond 1e+18"),
        (np.array([{}, {}, {}]), "is damaged or is no .npy file"),
    ],
    ids=["more", "integers", "one axis", "NaN", "huge", "pickled"],
)
def test_embeddings_that_do_not_match(tmp_path, matrix, message):
    np.save(tmp_path / "e.npy", matrix, allow_pickle=True)
    with refused(message):
        load_embeddings(tmp_path / "e.npy", 3, "item")


@pytest.mark.parametrize("keep", [0, 60, -1])
def test_truncated_embeddings(tmp_path, keep):
    path = tmp_path / "e.npy"
    with refused("e.npy is missing: it holds the item embeddings"):
        load_embeddings(path, 3, "item")
    with path.open("wb") as file:
        np.savez(file, item=np.ones((3, 2)))
    with refused("e.npy must hold a float matrix"):  # an archive is none
        load_embeddings(path, 3, "item")
    np.save(path, np.ones((3, 2)))
    path.write_bytes(path.read_bytes()[:keep])
    with refused("e.npy is damaged or is no .npy file"):
        load_embeddings(path, 3, "item")
