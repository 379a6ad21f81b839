"""Raw files on disk and on a server of the loopback interface."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from amazon_upstream import Handler, Shelf, raw_lines


@pytest.fixture
def write_raw(tmp_path: Path) -> Callable[..., Path]:
    """Write raw files: ``write_raw(edition, zipped=True, lines=None)`` gives their folder."""

    def write(edition: str = "2014", zipped: bool = True, lines=None) -> Path:
        folder = tmp_path / f"raw{edition}"
        for name, content in (lines or raw_lines(edition)).items():
            path = folder / (name if zipped else name.removesuffix(".gz"))
            path.parent.mkdir(parents=True, exist_ok=True)
            data = ("\n".join(content) + "\n").encode("utf-8")
            path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
        return folder

    return write


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """A server on the loopback interface."""
    shelf = Shelf()
    handler = type("Bound", (Handler,), {"shelf": shelf})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    shelf.url = f"http://127.0.0.1:{server.server_port}"
    yield shelf
    server.shutdown()
    server.server_close()
    thread.join()
