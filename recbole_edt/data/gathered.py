"""RecBole's ``Interaction`` with columns that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class LazyInteraction(Interaction):
    """An ``Interaction`` that makes some of its columns on first use of one of them.

    Parameters
    ----------
    ready : mapping
        Name -> tensor [n, ...] of the columns that exist already.
    make : callable
        Returns the other columns.
    """

    def __init__(
        self, ready: Mapping[str, Tensor], make: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        self._ready = dict(ready)
        self._make: Callable[[], Mapping[str, Tensor]] | None = make
        self.length = len(next(iter(ready.values())))

    @property
    def interaction(self) -> dict[str, Tensor]:
        """All columns."""
        if self._make is not None:
            make, self._make = self._make, None
            self._ready.update(make())
        return self._ready

    def __getitem__(self, index: Any) -> Any:
        """Return a column by its name, or rows of all columns."""
        if isinstance(index, str) and index in self._ready:
            return self._ready[index]
        return super().__getitem__(index)

    def to(self, device, selected_field=None) -> Interaction:
        """Return the columns on a device; itself, still lazy, if they are there."""
        there = all(column.device == torch.device(device) for column in self._ready.values())
        return self if there else super().to(device, selected_field)


class GatheredRows(LazyInteraction):
    """Rows whose columns are gathered for a batch at a time.

    Padded histories take many times the memory of the sequences that they are cut from. A whole
    column of them is made only if it is asked for.

    Parameters
    ----------
    ready : mapping
        Name -> array [n] of the columns that exist already.
    gather : callable
        Makes the other columns of rows int64 [k]: name -> array [k, ...].
    """

    def __init__(
        self,
        ready: Mapping[str, np.ndarray],
        gather: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    ) -> None:
        self._gather = gather
        columns = {name: torch.from_numpy(values) for name, values in ready.items()}
        super().__init__(columns, lambda: self._gathered(np.arange(self.length)))

    def _gathered(self, rows: np.ndarray) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in self._gather(rows).items()}

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        late = self._gather(np.arange(0)) if self._make is not None else []
        return [*self._ready, *late]

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a column of this name."""
        return name in self.columns

    def __getitem__(self, index: Any) -> Any:
        """Return a column by its name, or the rows of an index as an ``Interaction``."""
        if isinstance(index, str) or self._make is None:
            return super().__getitem__(index)
        rows = np.arange(self.length)[index if isinstance(index, slice) else np.asarray(index)]
        at = np.atleast_1d(rows)
        taken = {name: values[torch.from_numpy(at)] for name, values in self._ready.items()}
        taken |= self._gathered(at)
        return Interaction({name: v if rows.ndim else v[0] for name, v in taken.items()})
