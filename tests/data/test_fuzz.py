"""Broken files: loaded as a slow reader reads them, or refused in one line.

The mutations go through the real command up to the moment at which training would begin.
``RECBOLE_EDT_FUZZ=5000 pytest tests/data/test_fuzz.py`` tries more of them.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_edt import cli, quick_start
from recbole_edt.augment.histories import read_histories
from recbole_edt.errors import ConfigError, DataError, ProtocolError

EXAMPLES = int(os.environ.get("RECBOLE_EDT_FUZZ", "150"))
FILES = ("tiny.inter", "tiny.item", "tiny.user")
SMALL = [
    "--model=LLMEDT", "--dataset=tiny", "--hidden_size=4", "--use_gpu=False",
    "--eval_args.mode=uni1", "--threads=1", "--n_heads=1", "--n_layers=1", "--augmentation=True",
]  # fmt: skip

INTER = (
    "user_id:token\titem_id:token\ttimestamp:float\tposition:float\taugmented:token\n"
    + "".join(
        f"u{user}\t{'ab'[(user + place) % 2]}{(user * 3 + place) % 4}\t{5 + place}\t{place}\t0\n"
        for user in range(5)
        for place in range(4)
    )
)
ITEM = "item_id:token\tdomain:token\tgenerated:token\ttitle:token_seq\n" + "".join(
    f"{d}{n}\t{d}\t0\ttitle of {d}{n}\n" for d in "ab" for n in range(4)
)
USER = "user_id:token\n" + "".join(f"u{user}\n" for user in range(5))
SOUND = {name: text.encode() for name, text in zip(FILES, (INTER, ITEM, USER), strict=True)}


class Loaded(BaseException):
    """The command has read and checked everything, and would begin to write."""


class Unreadable(Exception):
    """What the contract does not allow."""


def table(content: bytes) -> list[dict[str, str]]:
    """Rows of an atomic file, by the letter of the contract."""
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable from error
    lines = [line[:-1] if line.endswith("\r") else line for line in text.split("\n")]
    if "\0" in text or any("\r" in line for line in lines):
        raise Unreadable
    columns = [column.rpartition(":")[0] for column in lines[0].split("\t")]
    rows = []
    for line in lines[1:]:
        if not line.strip(" "):
            continue
        fields = line.split("\t")
        if len(fields) != len(columns):
            raise Unreadable
        rows.append(dict(zip(columns, fields, strict=True)))
    return rows


def number(text: str) -> float:
    if not re.fullmatch(r"[ -~]*", text) or "_" in text:
        raise Unreadable
    try:
        value = float(text)
    except ValueError as error:
        raise Unreadable from error
    if not math.isfinite(value):
        raise Unreadable
    return value


def slowly(folder: Path) -> dict[str, list[tuple[str, str, bool]]]:
    """Rows of every user in order: item, its domain, whether it was inserted."""
    inter, items = (table((folder / name).read_bytes()) for name in FILES[:2])
    domain = {}
    for row in items:
        if row["item_id"] in domain or not row["item_id"] or not row["domain"]:
            raise Unreadable
        domain[row["item_id"]] = row["domain"]
    out: dict[str, dict] = {}
    for line, row in enumerate(inter):
        time = number(row["timestamp"])
        if not row["user_id"] or row["item_id"] not in domain:
            raise Unreadable
        rows = out.setdefault(row["user_id"], {})
        place = number(row["position"]) if "position" in row else (time, line)
        if place in rows:
            raise Unreadable
        flag = row.get("augmented", "0")
        if flag not in ("0", "1"):
            raise Unreadable
        rows[place] = (row["item_id"], domain[row["item_id"]], flag == "1")
    return {user: [rows[place] for place in sorted(rows)] for user, rows in out.items()}


def as_read(data) -> dict[str, list[tuple[str, str, bool]]]:
    """The same of a dataset as the command has read it."""
    out = {}
    rows = data.sequences
    for user in range(1, rows.n_users):
        part = slice(rows.offsets[user], rows.offsets[user + 1])
        if part.start == part.stop:
            continue
        items = rows.items[part]
        out[str(data.id2token(data.uid_field, user))] = [
            (str(data.id2token(data.iid_field, item)), data.domains[data.item_domain[item]],
             bool(flag))
            for item, flag in zip(items, rows.augmented[part], strict=True)
        ]  # fmt: skip
    return out


FIELDS = [
    "", " ", "nan", "NA", "null", "None", "inf", "-inf", "1e400", "1e308", "-0.0", "0", "00", "0.0",
    "1.5", "1e0", "+1", "0x1", "1_0", " 1", "1 ", "\uff11", "\u0663", "9" * 400, "9007199254740993",
    "u0", "a0", "b1", " a0", "a0 ", '"', '"a0"', '"a\tb"', "a\tb", "#", "\\N", "a", "c", "[PAD]",
    "\ufeff", "\u00a0", "\u2028", "\x1a", "\x0c", "\x85", "e\u0301", "x" * 999, "x" * 1001,
    "x" * 70_000, "True", "1,000", "1e", ".", "-", "5.", "1e-400",
]  # fmt: skip
HEADERS = [
    "user_id:token", "item_id:token", "position:float", "augmented:token", "augmented:float",
    "augmented:token_seq", "domain:token", "generated:token", "domain:float", "position:token",
    "position:float_seq", "user_id", "", ":", "x:token", "x:y:float", "user_id:token ",
    "USER_ID:token", "item_id:float", "generated:float", "user_id:token.1",
]  # fmt: skip
RAW = [
    b"\0", b"\r", b"\n", b"\r\n", b"\n\n", b"\t", b"\xff", b"\xef\xbb\xbf", b"\xc3", b'"', b" ",
    b"\xed\xa0\x80", b"\x1a", b"  \n", b"\t\n", b" \r\n",
]  # fmt: skip


KINDS = ["field"] * 3 + ["raw"] * 2 + ["header", "swap", "drop", "twice", "flip", "cut", "repeat",
                                       "sorted", "crlf", "bom"]  # fmt: skip


@st.composite
def changed_files(draw):
    """The sound files after a few changes of their fields, columns, lines or bytes."""
    files = dict(SOUND)
    for _ in range(draw(st.integers(1, 3))):
        name, kind = draw(st.sampled_from(FILES)), draw(st.sampled_from(KINDS))
        files[name] = changed(draw, kind, files[name])
    return files


def changed(draw, kind: str, content: bytes) -> bytes:
    rows = [line.split(b"\t") for line in content.split(b"\n")]
    at = draw(st.integers(0, len(content)))
    row = 0 if kind == "header" else draw(st.integers(0, len(rows) - 1))
    one, two = (draw(st.integers(0, len(rows[row]) - 1)) for _ in range(2))
    if kind in ("field", "header"):
        rows[row][one] = draw(st.sampled_from(FIELDS if row else HEADERS)).encode()
    elif kind == "swap":  # columns, or their headers alone
        for fields in rows if draw(st.booleans()) else rows[:1]:
            if max(one, two) < len(fields):
                fields[one], fields[two] = fields[two], fields[one]
    elif kind in ("drop", "twice"):
        for fields in rows:
            fields[one : one + 1] *= 0 if kind == "drop" else 2
    elif kind == "repeat":
        rows.append(rows[row])
    elif kind == "sorted":
        rows[1:] = sorted(rows[1:])
    else:
        flipped = bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) if content[at:] else b""
        return {
            "raw": content[:at] + draw(st.sampled_from(RAW)) + content[at:],
            "flip": content[:at] + flipped + content[at + 1 :],
            "cut": content[:at],
            "crlf": content.replace(b"\n", b"\r\n"),
            "bom": b"\xef\xbb\xbf" + content,
        }[kind]
    return b"\n".join(map(b"\t".join, rows))


@pytest.fixture
def read(monkeypatch, capfd):
    """Run the command on a folder of data until it would train: the data, or the refusal."""

    def stop(config):
        raise Loaded

    def keep(config, data, make=quick_start.data_preparation):
        seen.append(data)
        return make(config, data)

    seen: list = []
    monkeypatch.setattr(quick_start, "open_log", stop)
    monkeypatch.setattr(quick_start, "data_preparation", keep)

    def run(folder: Path):
        seen.clear()
        capfd.readouterr()  # what augment has said of the files before
        try:
            code = cli.execute("run", [*SMALL, f"--data_path={folder}"])
        except Loaded:
            assert capfd.readouterr().err == ""
            return seen[0]
        out, err = capfd.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert len(err) < 1000
        return err.removeprefix("error: ")

    return run


def write(folder: Path, files=SOUND) -> None:
    (folder / "tiny").mkdir()
    for name, content in files.items():
        (folder / "tiny" / name).write_bytes(content)
    vectors = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    np.save(folder / "tiny" / "tiny.item_emb.npy", vectors)


def test_the_sound_files_are_read(read, tmp_path):
    write(tmp_path)
    assert as_read(read(tmp_path)) == slowly(tmp_path / "tiny")


MENDABLE = (
    "tiny.", "(user_id, position)", "generated item", "generated row", "three raw rows",
    "augmented rows after", "uni1 needs",
)  # fmt: skip
"""What the plugin's own errors about data say; RecBole's and pandas' would not."""


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=changed_files())
def test_changed_files_are_read_literally_or_refused(read, files):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, files)
        found = read(folder)
        if isinstance(found, str):
            assert any(words in found for words in MENDABLE), found
            assert "dataset tiny: " not in found, found
        else:
            assert as_read(found) == slowly(folder / "tiny")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                histories = read_histories(folder / "tiny", "tiny")  # as augment reads them
        except (DataError, ProtocolError, ConfigError) as error:
            assert "\n" not in str(error)
            return
        expected = {
            user: [row[0] for row in rows] for user, rows in slowly(folder / "tiny").items()
        }
        assert histories.inter.groupby("user_id")["item_id"].apply(list).to_dict() == expected


@settings(max_examples=EXAMPLES // 3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 223), bit=st.integers(0, 7), cut=st.none() | st.integers(0, 224))
def test_changed_vectors_are_those_of_the_file_or_refused(read, place, bit, cut):
    """Of a file without a recorded checksum: what numpy reads of it, or one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        path = folder / "tiny" / "tiny.item_emb.npy"
        content = bytearray(path.read_bytes())
        assert len(content) == 224
        content[place] ^= 1 << bit
        path.write_bytes(content[:cut])
        found = read(folder)
        if isinstance(found, str):
            assert "tiny.item_emb.npy" in found
            return
        assert cut in (None, 224)
        vectors = found.item_table().whole()[1:]
        assert np.array_equal(vectors, np.load(path))
        assert (np.abs(vectors) < 1e18).all()
