"""On-disk cache of paid answers; safe to kill at any moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from recbole_edt.augment.llm.costs import Usage
from recbole_edt.errors import DataError

_VERSION = 1
_TABLES = """
CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE paid (
    stage TEXT PRIMARY KEY, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, dollars REAL NOT NULL
) WITHOUT ROWID;
"""
_PAY = """
INSERT INTO paid VALUES (?, ?, ?, ?, ?) ON CONFLICT (stage) DO UPDATE SET
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    dollars = dollars + excluded.dollars
"""


class AnswerCache:
    """An SQLite file of answers and vectors by content key, and of what each stage has cost.

    Each answer is committed together with its price as it arrives, in write-ahead mode. One process
    at a time holds the file.

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
            raise DataError(f"{self.path} is no LLM cache of this version: name another file")
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

    def _found(self, query: str, keys: Iterable[bytes]) -> dict[bytes, Any]:
        with self._readable():
            rows = ((key, self._base.execute(query, (key,)).fetchone()) for key in keys)
            return {key: row[0] for key, row in rows if row}

    def store(
        self,
        stage: str,
        usage: Usage,
        answers: Mapping[bytes, str] = MappingProxyType({}),
        vectors: Mapping[bytes, np.ndarray] = MappingProxyType({}),
    ) -> None:
        """Store what a call cost, and what it brought if that is of use."""
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
        with self._readable(), self._base as base:
            base.execute("BEGIN")
            base.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", (answers or {}).items()
            )
            base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
            base.execute(_PAY, (stage, *usage))

    def dollars(self) -> dict[str, float]:
        """All that was ever paid, by stage."""
        with self._readable():
            return dict(self._base.execute("SELECT stage, dollars FROM paid ORDER BY stage"))
