"""RecBole's ``Interaction`` with columns that are made on first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class LazyInteraction(Interaction):
    """An ``Interaction`` of ``ready`` columns; ``make`` returns the others on first use."""

    def __init__(self, ready: dict[str, Tensor], make: Callable[[], dict[str, Tensor]]) -> None:
        self._ready, self._make = dict(ready), make
        self._complete = False
        self.length = len(next(iter(ready.values())))

    @property
    def interaction(self) -> dict[str, Tensor]:
        """All columns."""
        if not self._complete:
            self._complete = True
            self._ready.update(self._make())
        return self._ready

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str) and index in self._ready:
            return self._ready[index]
        return super().__getitem__(index)

    def to(self, device, selected_field=None) -> Interaction:
        """Return the columns on a device; itself, still lazy, if they are there."""
        there = all(column.device == torch.device(device) for column in self._ready.values())
        return self if there else super().to(device, selected_field)


class GatheredRows(LazyInteraction):
    """Rows of ``ready`` columns; ``gather(rows)`` makes the others for a batch at a time.

    Padded histories take many times the memory of the sequences that they are cut from. A whole
    column of them is made only on request.
    """

    def __init__(
        self,
        ready: dict[str, np.ndarray],
        gather: Callable[[np.ndarray], dict[str, np.ndarray]],
    ) -> None:
        self._gather = gather
        columns = {name: torch.from_numpy(values) for name, values in ready.items()}
        super().__init__(columns, self._all_rows)

    def _all_rows(self) -> dict[str, Tensor]:
        return self._gathered(np.arange(self.length))

    def _gathered(self, rows: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in self._gather(rows).items()}

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [*self._ready, *([] if self._complete else self._gather(np.arange(0)))]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, index: Any) -> Any:
        """Return a column by its name, or the rows of an index as an ``Interaction``."""
        if isinstance(index, str) or self._complete:
            return super().__getitem__(index)
        by_parts = isinstance(index, (slice, tuple))  # a tuple is what `nonzero` of numpy returns
        rows = np.arange(self.length)[index if by_parts else np.asarray(index)]
        at = np.atleast_1d(rows)
        taken = {name: values[torch.from_numpy(at)] for name, values in self._ready.items()}
        taken |= self._gathered(at)
        return Interaction({name: v if rows.ndim else v[0] for name, v in taken.items()})
