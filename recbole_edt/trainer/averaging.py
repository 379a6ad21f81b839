"""Averages of a model's weights over the steps of training; validation and tests use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_WARM_UP = 10  # steps; during a multiple of them the decay is smaller


class AveragedWeights:
    """Exponential moving average of trainable parameters over the optimizer's steps.

    ``decay`` in [0, 1) is the share of the old average that a step keeps.
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
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchange the model's parameters and the averages."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            now = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(now)

    def state(self) -> dict[str, int | list[Tensor]]:
        """Return what a checkpoint stores."""
        return {"steps": self.steps, "values": self.values}

    @torch.no_grad()
    def load(self, state: dict | None) -> None:
        """Restore :meth:`state`; without one start at the current parameters."""
        self.steps = int(state["steps"]) if state else 0
        saved = state["values"] if state else self.parameters
        for value, source in zip(self.values, saved, strict=True):
            value.copy_(source)
