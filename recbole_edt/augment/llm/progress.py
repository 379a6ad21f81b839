"""How far a stage has come: a bar on a terminal, elsewhere a line from time to time."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractContextManager
from time import monotonic

from tqdm import tqdm

EVERY_S = 30.0
"""Seconds between two lines."""


class Progress(AbstractContextManager["Progress"]):
    """Counts what is done of ``total``."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total, self.done, self.failed = stage, total, 0, 0
        self._start = monotonic()
        self._bar = tqdm(total=total, desc=stage, disable=None)

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, n: int, failed: bool) -> None:
        """Count ``n`` more."""
        self.done += n
        self.failed += n * failed
        self._bar.update(n)

    async def lines(self) -> None:
        """Write lines until cancelled, if there is no terminal."""
        while not sys.stderr.isatty():
            await asyncio.sleep(EVERY_S)
            print(self, file=sys.stderr, flush=True)

    def __str__(self) -> str:
        seconds = monotonic() - self._start
        left = seconds / self.done * (self.total - self.done) if self.done else 0
        return (
            f"{self.stage}: {self.done:,} of {self.total:,} after {seconds:,.0f} s"
            + (f", {self.failed:,} failed" if self.failed else "")
            + (f", about {left:,.0f} s left" if left else "")
        )
