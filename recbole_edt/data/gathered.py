"""Rows for RecBole whose fields are gathered when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class GatheredRows(Interaction):
    """An ``Interaction`` of which a batch is made at a time.

    A padded history per row takes many times the memory of the sequences that it is cut from.
    Whoever asks for a whole column of histories gets it, and everything is made for that.

    Parameters
    ----------
    ready : mapping
        Name -> array [n] of the columns that exist anyway.
    gather : callable
        Makes the other columns of rows int64 [k]: name -> array [k, ...].
    """

    def __init__(
        self,
        ready: Mapping[str, np.ndarray],
        gather: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> None:
        self._ready = {name: torch.from_numpy(values) for name, values in ready.items()}
        self._gather = gather
        self._whole: dict[str, Tensor] | None = None
        self.length = len(next(iter(ready.values())))

    def _take(self, rows: np.ndarray) -> dict[str, Tensor]:
        index = torch.from_numpy(rows)
        out = {name: values[index] for name, values in self._ready.items()}
        out.update((name, torch.from_numpy(v)) for name, v in self._gather(rows).items())
        return out

    @property
    def interaction(self) -> dict[str, Tensor]:
        """All columns, whole."""
        if self._whole is None:
            self._whole = self._take(np.arange(self.length))
        return self._whole

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._take(np.arange(0)) if self._whole is None else self._whole)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns."""
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a column of this name."""
        return name in self.columns

    def __getitem__(self, index: Any) -> Any:
        """Return a column by its name, or the rows of an index as an ``Interaction``."""
        if isinstance(index, str) and self._whole is None and index in self._ready:
            return self._ready[index]
        if isinstance(index, str) or self._whole is not None:
            return super().__getitem__(index)
        rows = np.arange(self.length)[np.asarray(index) if not isinstance(index, slice) else index]
        taken = self._take(np.atleast_1d(rows))
        return Interaction({k: v if rows.ndim else v[0] for k, v in taken.items()})
