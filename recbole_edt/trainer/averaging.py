"""Averages of a model's weights over the steps of training, which are what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_FIRST_STEPS = 10
"""The average forgets its start faster than ``decay`` says until some multiple of these steps."""


class AveragedWeights:
    """Exponential moving average of parameters over the optimizer's steps.

    Single steps on sampled negatives scatter around what they head for; their average does not.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those that are trained.
    decay : float
        In [0, 1); what each step leaves of the average before it.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.decay = decay
        self.begin()

    def begin(self) -> None:
        """Begin anew, at the parameters as they are."""
        self.steps = 0
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, *_) -> None:
        """Take in the parameters as they are after a step; serves as a hook of an optimizer."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + _FIRST_STEPS))
        torch._foreach_lerp_(self.values, list[Tensor](self.parameters), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averages meanwhile."""
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
        """Give the model the averages for good."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            parameter.copy_(value)

    def state(self) -> dict[str, int | list[Tensor]]:
        """Return what a checkpoint holds of it."""
        return {"steps": self.steps, "values": self.values}

    @torch.no_grad()
    def load(self, state: dict) -> None:
        """Go on from what :meth:`state` returned."""
        self.steps = int(state["steps"])
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)
