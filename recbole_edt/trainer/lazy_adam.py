"""Adam that leaves the rows of an embedding table alone which a batch has not touched."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class LazyAdam(torch.optim.Adam):
    """Adam, with sparse gradients as what they are: only their rows are looked at and moved.

    Dense Adam passes over a whole table, its gradient and both moments at every step, and its
    moments move rows on that no batch has asked for. Here the moments of a row stand still until
    it is touched again; the bias correction counts all steps.
    """

    @torch.no_grad()
    def step(self, closure=None):
        """Take a step; ``closure`` as in torch."""
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._move_rows(parameter, group)
                    parameter.grad = None  # torch's Adam takes dense ones alone
        super().step()

    def _move_rows(self, parameter: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        count, (decay, square_decay) = float(state["step"]), group["betas"]
        assert parameter.grad is not None
        gradient = parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        mean = state["exp_avg"][rows].lerp_(values, 1 - decay)
        square = state["exp_avg_sq"][rows].mul_(square_decay)
        square.addcmul_(values, values, value=1 - square_decay)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        spread = (square.sqrt() / math.sqrt(1 - square_decay**count)).add_(group["eps"])
        parameter[rows] -= group["lr"] / (1 - decay**count) * mean / spread
