"""Downloads of large gzip files that survive cut connections, restarts and wrong answers.

A file grows as ``NAME.part``; ``NAME.part.json`` holds the validator (ETag or Last-Modified) that
ties it to one version on the server, so that a later process resumes it only if the file is still
the same. The checked file is renamed to ``NAME``, with ``NAME.json`` beside it.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import time
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_edt.errors import EDTError
from recbole_edt.io.files import file_sha256, write_text

CHUNK = 1 << 18
ATTEMPTS = 6  # tries in a row without a new byte before giving up
BACKOFF_S = 1.0  # before the second try; doubled for each further one
LONGEST_S = 60.0  # most seconds between two tries
TIMEOUT_S = 30.0  # without a byte, after which a connection counts as cut


class DownloadError(EDTError):
    """A file that cannot be fetched, or arrives damaged."""


class _Retry(Exception):
    """A try that failed; a later one can succeed."""


def fetch(url: str, path: Path) -> None:
    """Download a gzip file and check it; fetch only the bytes that are not on disk.

    A complete file at ``path`` is verified and kept.

    Raises
    ------
    DownloadError
        If the server has no such file, cannot be reached, or sends a damaged file twice; if the
        disk is full. The bytes that have arrived stay for the next call.
    """
    if path.is_file():
        recorded = _read_note(path).get("sha256")
        if recorded == file_sha256(path):
            return
        if not recorded and not _damage(path):  # put there by hand
            _record(path, None)
            return
        tqdm.write(f"{path} was changed: it is fetched again")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for _ in range(2):
        _fetch_part(url, part)
        if not (damage := _damage(part)):
            break
        _discard(part)
    else:
        raise DownloadError(f"{url} arrived damaged twice: {damage}")
    os.replace(part, path)
    _note(part).unlink(missing_ok=True)
    _record(path, url)


# Files on disk.


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_note(path: Path) -> dict[str, Any]:
    """Read what is recorded of a file; a missing or truncated record counts as empty."""
    try:
        return json.loads(_note(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_note(path: Path, **content: Any) -> None:
    write_text(_note(path), json.dumps(content, indent=1) + "\n")


def _record(path: Path, url: str | None) -> None:
    _write_note(path, url=url, bytes=path.stat().st_size, sha256=file_sha256(path))


def _damage(path: Path) -> str:
    """Why a file is not a whole gzip file; empty if it is one."""
    try:
        with gzip.open(path) as file:
            while file.read(CHUNK):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f"it is no whole gzip file ({error})"
    return ""


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


# Answers of the server.


def _fetch_part(url: str, part: Path) -> None:
    """Make ``part`` as long as the server says the file is."""
    idle, longest = 0, _size(part)
    while True:
        try:
            return _try_once(url, part)
        except _Retry as error:
            idle = 0 if _size(part) > longest else idle + 1
            longest = max(longest, _size(part))
            if idle >= ATTEMPTS:
                raise DownloadError(f"{url} cannot be fetched: {error}") from error
            time.sleep(min(BACKOFF_S * 2.0 ** max(idle - 1, 0), LONGEST_S))


def _try_once(url: str, part: Path) -> None:
    validator = str(_read_note(part).get("validator") or "")
    start = _size(part) if validator else 0  # without one, nothing says it is the same file
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            status = f"{error.code} {error.reason}"
            if error.code == 416:
                if error.headers.get("Content-Range", "").strip() == f"bytes */{start}":
                    return  # everything had arrived before
                _discard(part)
            elif error.code < 500 and error.code not in (408, 425, 429):
                raise DownloadError(f"there is no such file: {url} answers {status}") from error
            raise _Retry(f"the server answers {status}") from error
    except (OSError, HTTPException) as error:
        raise _Retry(f"no connection ({getattr(error, 'reason', error)})") from error
    with response:
        _receive(response, part, start, validator)


def _receive(response, part: Path, start: int, validator: str) -> None:
    """Append an answer to ``part``, or begin it anew if the answer is the whole file."""
    etag = response.headers.get("ETag", "")  # a weak one does not identify the bytes of a file
    version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if start and response.status == 206:
        header = response.headers.get("Content-Range", "").strip()
        found = re.fullmatch(rf"bytes {start}-\d+/(\d+|\*)", header)
        if not found or version not in ("", validator):
            _discard(part)
            raise _Retry("the server sends a part of something else")
        length = found[1]
    else:
        start, length = 0, response.headers.get("Content-Length", "")
        part.unlink(missing_ok=True)  # before it is bound to another version
        _write_note(part, validator=version)
    total = int(length) if length.isdecimal() else None
    name = part.name.removesuffix(".part")
    bar = tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None)
    try:
        with part.open("r+b" if start else "wb") as file, bar:
            file.seek(start)
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"the disk is full: {part} cannot grow") from error
        raise
    if total is not None and _size(part) != total:
        raise _Retry(f"the connection was cut at {_size(part):,} of {total:,} bytes")


def _read(response) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Retry(f"the connection was cut ({error})") from error
