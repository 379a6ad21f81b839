"""Downloads of large gzip files that survive cut connections, restarts and wrong answers.

A file grows as ``NAME.part``; ``NAME.part.json`` holds the validator (ETag or Last-Modified) that
ties it to one version on the server, so that a later process resumes it only if the file is still
the same. What is whole and checked is renamed to ``NAME``, with ``NAME.json`` beside it.
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
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_edt.errors import EDTError
from recbole_edt.io.files import atomic_write, file_sha256

CHUNK = 1 << 18
TRANSIENT = (408, 425, 429)
"""Status codes below 500 after which asking again makes sense."""


class DownloadError(EDTError):
    """A file that cannot be fetched, or arrives damaged."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long to go on trying.

    Attributes
    ----------
    attempts : int
        Tries in a row that bring no new byte before giving up.
    backoff : float
        Seconds before the second try; doubled for each further one.
    longest : float
        Most seconds between two tries, also when the server asks for more.
    timeout : float
        Seconds without a byte after which a connection counts as cut.
    """

    attempts: int = 6
    backoff: float = 1.0
    longest: float = 60.0
    timeout: float = 30.0


class _Retry(Exception):
    """One try that failed; ``wait`` is how many seconds the server asks for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Damaged(Exception):
    """All bytes are there, but they are not a whole gzip file."""


def fetch(url: str, path: Path, retry_policy: RetryPolicy | None = None) -> None:
    """Download a gzip file and check it; fetch only the bytes that are not on disk.

    Parameters
    ----------
    url : str
        Address of the file.
    path : Path
        Where it belongs; a complete file there is verified and kept.
    retry_policy : RetryPolicy, optional
        How often and how long to try.

    Raises
    ------
    DownloadError
        If the server has no such file, cannot be reached, or sends a damaged file twice; if the
        disk is full. What has arrived stays for the next call.
    """
    if path.is_file():
        if _is_whole(path):
            return
        tqdm.write(f"{path} was changed: it is fetched again")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for trial in (1, 2):
        _fetch_part(url, part, retry_policy or RetryPolicy())
        try:
            _check_gzip(part)
            break
        except _Damaged as error:
            _discard(part)
            if trial == 2:
                raise DownloadError(f"{url} arrived damaged twice: {error}") from error
    os.replace(part, path)
    _note(part).unlink(missing_ok=True)
    _record(path, url)


# What is on disk.


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path, url: str | None) -> None:
    content = {"url": url, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    _write_json(_note(path), content)


def _is_whole(path: Path) -> bool:
    """Compare a file with its record; one put there by hand is checked, then recorded."""
    recorded = _read_json(_note(path)).get("sha256")
    if recorded:
        return file_sha256(path) == recorded
    try:
        _check_gzip(path)
    except _Damaged:
        return False
    _record(path, None)
    return True


def _check_gzip(path: Path) -> None:
    try:
        with gzip.open(path) as file:
            while file.read(CHUNK):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _Damaged(f"it is no whole gzip file ({error})") from error


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read_json(path: Path) -> dict[str, Any]:
    """Read a record; one that is missing or torn counts as empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# What the server sends.


def _fetch_part(url: str, part: Path, retry_policy: RetryPolicy) -> None:
    """Make ``part`` as long as the server says the file is."""
    idle, longest = 0, _size(part)
    while True:
        try:
            _try_once(url, part, retry_policy.timeout)
            return
        except _Retry as error:
            idle = 0 if _size(part) > longest else idle + 1
            longest = max(longest, _size(part))
            if idle >= retry_policy.attempts:
                raise DownloadError(f"{url} cannot be fetched: {error}") from error
            wait = max(retry_policy.backoff * 2.0 ** max(idle - 1, 0), error.wait)
            time.sleep(min(wait, retry_policy.longest))


def _try_once(url: str, part: Path, timeout: float) -> None:
    validator = str(_read_json(_note(part)).get("validator") or "")
    start = _size(part) if validator else 0  # without one, nothing says it is the same file
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", validator)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            _refused(error, url, part, start)
        return
    except (OSError, HTTPException) as error:
        raise _Retry(f"no connection ({getattr(error, 'reason', error)})") from error
    with response:
        if start and not _continues(response, part, start, validator):
            start = 0
        _receive(response, part, start)


def _refused(error: urllib.error.HTTPError, url: str, part: Path, start: int) -> None:
    """Sort an error status: nothing left to send, ask again, or give up."""
    if error.code == 416:
        if error.headers.get("Content-Range", "").strip() == f"bytes */{start}":
            return  # everything had arrived before
        _discard(part)
        raise _Retry("the server refuses to resume")
    if error.code in TRANSIENT or error.code >= 500:
        after = error.headers.get("Retry-After", "")
        wait = float(after) if after.isdecimal() else 0.0
        raise _Retry(f"the server answers {error.code} {error.reason}", wait)
    raise DownloadError(f"there is no such file: {url} answers {error.code} {error.reason}")


def _continues(response: HTTPResponse, part: Path, start: int, validator: str) -> bool:
    """Tell whether the body is the rest of the file from ``start`` on, and not all of it."""
    if response.status != 206:
        return False
    if _content_range(response)[0] != start or _validator(response) not in ("", validator):
        _discard(part)
        raise _Retry("the server sends a part of something else")
    return True


def _validator(response: HTTPResponse) -> str:
    """What identifies this version of the file; a weak ETag does not identify its bytes."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _content_range(response: HTTPResponse) -> tuple[int, int | None]:
    """First byte and size of the whole file, from ``Content-Range: bytes 5-9/10``."""
    header = response.headers.get("Content-Range", "").strip()
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", header)
    if not found:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _receive(response: HTTPResponse, part: Path, start: int) -> None:
    if start:
        total = _content_range(response)[1]
    else:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        part.unlink(missing_ok=True)  # before it is bound to another version
        _write_json(_note(part), {"validator": _validator(response)})
    try:
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            _copy(response, file, part.name.removesuffix(".part"), start, total)
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"the disk is full: {part} cannot grow") from error
        raise
    if total is not None and _size(part) != total:
        raise _Retry(f"the connection was cut at {_size(part):,} of {total:,} bytes")


def _copy(response: HTTPResponse, file, name: str, start: int, total: int | None) -> None:
    with tqdm(
        desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None
    ) as bar:
        while True:
            try:
                chunk = response.read1(CHUNK)
            except (OSError, HTTPException) as error:
                raise _Retry(f"the connection was cut ({error})") from error
            if not chunk:
                return
            file.write(chunk)
            bar.update(len(chunk))
