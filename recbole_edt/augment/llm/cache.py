"""On-disk cache of paid answers; safe to kill at any moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from recbole_edt.errors import DataError

_VERSION = 2
_TABLES = """
CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE counts (stage TEXT, name TEXT, value REAL NOT NULL, PRIMARY KEY (stage, name))
    WITHOUT ROWID;
CREATE TABLE endpoints (address TEXT PRIMARY KEY, dialect TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (file TEXT PRIMARY KEY, address TEXT NOT NULL, stage TEXT NOT NULL,
    batch TEXT) WITHOUT ROWID;
"""
_COUNT = """
INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT (stage, name) DO UPDATE SET
    value = value + excluded.value
"""


class AnswerCache:
    """An SQLite file: answers and vectors by content key, counts and costs of each stage.

    Each answer is committed together with its price as it arrives, in write-ahead mode. It also
    holds what is known of each endpoint, and the batches under way at a provider. One process at a
    time holds the file.

    Raises
    ------
    DataError
        If it is not such a file, is damaged, or another process holds it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The event loop may run in another thread than the caller, never in two.
        self._base = sqlite3.connect(
            self.path, timeout=1, isolation_level=None, check_same_thread=False
        )
        try:
            with self._readable():
                self._open()
        except DataError:
            self._base.close()
            raise

    def _open(self) -> None:
        execute = self._base.execute
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            execute(f"PRAGMA {pragma}")
        execute("BEGIN EXCLUSIVE")
        (version,) = execute("PRAGMA user_version").fetchone()
        (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0:
            for statement in _TABLES.split(";"):
                execute(statement)
            execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise DataError(f"{self.path} is no LLM cache of this version: move it away")
        execute("COMMIT")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn errors of SQLite into one line."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise DataError(f"the LLM cache {self.path} is in use by another run") from error
            raise DataError(f"the LLM cache {self.path} cannot be used: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def answers(self, keys: Iterable[bytes]) -> dict[bytes, str]:
        """Look up answers."""
        return self._found("SELECT answer FROM answers WHERE key = ?", keys)

    def vectors(self, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Look up vectors, float32 each."""
        found = self._found("SELECT vector FROM vectors WHERE key = ?", keys)
        return {key: np.frombuffer(vector, dtype="<f4") for key, vector in found.items()}

    def _found(self, query: str, keys: Iterable[Any]) -> dict[Any, Any]:
        with self._readable():
            rows = ((key, self._base.execute(query, (key,)).fetchone()) for key in keys)
            return {key: row[0] for key, row in rows if row}

    def store(
        self,
        stage: str,
        counts: Mapping[str, float],
        answers: Mapping[bytes, str] = MappingProxyType({}),
        vectors: Mapping[bytes, np.ndarray] = MappingProxyType({}),
        file: str = "",
    ) -> None:
        """Add to the counts of a stage, and store what calls brought.

        ``file`` is a batch that is done with.
        """
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
        with self._readable(), self._base as base:
            base.execute("BEGIN")
            base.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", answers.items())
            base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            base.executemany(_COUNT, [(stage, *pair) for pair in counts.items() if pair[1]])
            base.execute("DELETE FROM batches WHERE file = ?", (file,))

    def counts(self) -> dict[str, dict[str, float]]:
        """All that was ever counted, by stage."""
        out: dict[str, dict[str, float]] = {}
        with self._readable():
            for stage, name, value in self._base.execute(
                "SELECT * FROM counts ORDER BY stage, name"
            ):
                out.setdefault(stage, {})[name] = value
        return out

    def dialect(self, address: str) -> str | None:
        """What is known of an endpoint, as JSON."""
        query = "SELECT dialect FROM endpoints WHERE address = ?"
        return self._found(query, [address]).get(address)

    def keep_dialect(self, address: str, dialect: str) -> None:
        """Keep what is known of an endpoint."""
        with self._readable():
            self._base.execute("INSERT OR REPLACE INTO endpoints VALUES (?, ?)", (address, dialect))

    def batches(self, address: str, stage: str) -> dict[str, str | None]:
        """Batches under way: uploaded file -> batch, None if it was not seen to be made."""
        query = "SELECT file, batch FROM batches WHERE address = ? AND stage = ?"
        with self._readable():
            return dict(self._base.execute(query, (address, stage)))

    def keep_batch(self, file: str, address: str, stage: str, batch: str | None) -> None:
        """Keep that a file was uploaded, and the batch that was made of it."""
        row = (file, address, stage, batch)
        with self._readable():
            self._base.execute("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?)", row)
