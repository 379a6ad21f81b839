"""Averages of a model's weights over the steps of training; validation and tests use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_WARM_UP = 10
"""The average forgets its start faster than ``decay`` says until some multiple of these steps."""


class AveragedWeights:
    """Exponential moving average of parameters over the optimizer's steps.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without gradients are left out.
    decay : float
        In [0, 1); share of the old average that a step keeps.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.decay = decay
        self.steps = 0
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, *_) -> None:
        """Add the parameters as a step has left them; a post-hook of ``step``."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + _WARM_UP))
        torch._foreach_lerp_(self.values, list[Tensor](self.parameters), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Exchange the model's parameters for the averages inside the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for value, parameter in zip(self.values, self.parameters, strict=True):
            now = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(now)

    @torch.no_grad()
    def keep(self) -> None:
        """Set the model's parameters to the averages for good."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            parameter.copy_(value)

    def state(self) -> dict[str, int | list[Tensor]]:
        """Return what a checkpoint stores."""
        return {"steps": self.steps, "values": self.values}

    @torch.no_grad()
    def load(self, state: dict | None) -> None:
        """Restore :meth:`state`; without one start at the parameters as they are."""
        self.steps = int(state["steps"]) if state else 0
        saved = state["values"] if state else self.parameters
        for value, source in zip(self.values, saved, strict=True):
            value.copy_(source)
