"""Downloads: whole, resumed, retried, never trusted blindly."""

import errno
import gzip
import hashlib
import json
import os
import random
import socket
from pathlib import Path

import pytest
from amazon_upstream import cut_at, status

from recbole_edt.prepare import download
from recbole_edt.prepare.download import DownloadError, fetch

CONTENT = gzip.compress(random.Random(5).randbytes(300_000), mtime=0)
OTHER = gzip.compress(random.Random(6).randbytes(300_000), mtime=0)
QUICK = {"ATTEMPTS": 3, "BACKOFF_S": 0.001, "LONGEST_S": 0.01, "TIMEOUT_S": 1.0}


@pytest.fixture
def get(shelf, tmp_path, monkeypatch):
    """Fetch ``big.gz``; gives the path."""
    shelf.files["big.gz"] = CONTENT
    for name, value in QUICK.items():
        monkeypatch.setattr(download, name, value)

    def run() -> Path:
        path = tmp_path / "downloads" / "big.gz"
        fetch(f"{shelf.url}/big.gz", path)
        return path

    return run


def damaged(handler, body):
    handler.serve(body[:5_000] + b"\0\0\0\0" + body[5_004:])


def silent(handler, body):
    handler.head(200, **{"Content-Length": str(len(body))})
    handler.wfile.write(body[:1000])
    handler.connection.recv(1)  # until the client hangs up


def test_a_file_arrives_whole_with_its_checksum_beside_it(get, shelf):
    path = get()
    assert path.read_bytes() == CONTENT
    record = json.loads((path.parent / "big.gz.json").read_text())
    assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert sorted(p.name for p in path.parent.iterdir()) == ["big.gz", "big.gz.json"]
    get()
    assert len(shelf.log) == 1  # not fetched again


def test_a_file_put_there_by_hand_is_kept_until_it_is_changed(get, shelf, tmp_path):
    path = tmp_path / "downloads" / "big.gz"
    path.parent.mkdir()
    path.write_bytes(OTHER)
    assert get().read_bytes() == OTHER and shelf.log == []
    path.write_bytes(OTHER[:-9])
    assert get().read_bytes() == CONTENT


def test_cut_connections_are_resumed_where_they_broke(get, shelf):
    shelf.behave = [cut_at(100_000), cut_at(200_000)]
    assert get().read_bytes() == CONTENT
    assert [asked for _, asked in shelf.log] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_process_resumes_what_an_earlier_one_left(get, shelf, tmp_path):
    shelf.behave = [cut_at(100_000), status(503), status(503), status(503)]
    with pytest.raises(DownloadError, match="503"):
        get()
    assert not (tmp_path / "downloads" / "big.gz").exists()
    assert get().read_bytes() == CONTENT
    assert shelf.log[-1][1] == "bytes=100000-"


@pytest.mark.parametrize(
    ("server", "behaviour"),
    [
        ({"ranges": False}, [cut_at(100_000)]),
        ({"etag": None}, [cut_at(100_000)]),  # nothing is resumed without a validator
        ({}, [status(503), status(429, **{"Retry-After": "0"})]),
        ({}, [cut_at(stop) for stop in range(50_000, 300_000, 50_000)]),  # progress: more tries
        ({}, [damaged]),
        ({}, [silent]),
    ],
    ids=["no ranges", "no validator", "busy", "often cut", "damaged once", "silent"],
)
def test_it_arrives_from_poor_servers(get, shelf, server, behaviour):
    vars(shelf).update(server, behave=list(behaviour))
    assert get().read_bytes() == CONTENT
    if server:
        assert shelf.log[-1][1] is None or not shelf.ranges


def test_a_file_that_changed_on_the_server_starts_from_zero(get, shelf):
    def cut_and_change(handler, body):
        handler.serve(body, 100_000)
        shelf.files["big.gz"], shelf.etag = OTHER, '"two"'

    shelf.behave = [cut_and_change]
    assert get().read_bytes() == OTHER
    assert len(shelf.log) == 2  # the server was told what the bytes belong to


def test_a_server_that_ignores_if_range_is_found_out(get, shelf):
    def rest_of_another(handler, body):
        shelf.etag = '"two"'
        span = f"bytes 100000-{len(OTHER) - 1}/{len(OTHER)}"
        handler.head(206, **{"Content-Range": span, "Content-Length": str(len(OTHER) - 100_000)})
        handler.wfile.write(OTHER[100_000:])
        shelf.files["big.gz"] = OTHER

    # a mixture of both would be noticed only at the end, as the first of two damaged files
    shelf.behave = [cut_at(100_000), rest_of_another, damaged]
    assert get().read_bytes() == OTHER


def test_what_had_arrived_completely_needs_no_more_bytes(get, shelf, tmp_path):
    part = tmp_path / "downloads" / "big.gz.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    part.with_name("big.gz.part.json").write_text('{"validator": "\\"one\\""}')
    assert get().read_bytes() == CONTENT
    assert len(shelf.log) == 1


@pytest.mark.parametrize(
    ("extra", "message"), [(-5_000, "damaged twice"), (7, "cannot be fetched")]
)
def test_a_server_that_lies_about_the_length_is_found_out(get, shelf, extra, message):
    def lie(handler, body):
        handler.head(200, **{"Content-Length": str(len(body) + extra)})
        handler.wfile.write(body[: len(body) + extra])

    shelf.behave = [lie] * 9
    with pytest.raises(DownloadError, match=message):
        get()


def test_a_missing_file_and_no_network_are_one_clear_line(get, shelf, tmp_path):
    shelf.files.clear()
    with pytest.raises(DownloadError, match=r"no such file: http://.*big.gz answers 404"):
        get()
    assert len(shelf.log) == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/big.gz"
        with pytest.raises(DownloadError, match="no connection"):
            fetch(url, tmp_path / "big.gz")


def test_a_full_disk_is_one_clear_line(get, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download.os, "fsync", full)
    monkeypatch.setattr(download, "_write_note", lambda path, **content: None)
    with pytest.raises(DownloadError, match="the disk is full"):
        get()
