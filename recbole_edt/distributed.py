"""Several processes that train one model: each takes a part of every batch.

Loss and gradients are those of the whole batch, so that results do not depend on the number of
processes. With one process every function is a no-op.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recbole_edt.errors import ConfigError, TrainingError

_LOST = ("gloo", "nccl", "connection", "timed out", "timeout")  # in messages about lost processes


def world_size() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; 0 writes and prints."""
    return dist.get_rank() if world_size() > 1 else 0


def is_launched(settings: dict[str, Any]) -> bool:
    """Whether torchrun or RecBole started this process as one of several."""
    if "local_rank" in settings:
        return int(settings.get("world_size", 1)) > 1
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and "LOCAL_RANK" in os.environ


def init(settings: dict[str, Any]) -> None:
    """Initialise the process group and choose a device.

    ``settings`` is the final configuration; ``device``, ``local_rank``, ``world_size`` and
    ``single_spec`` are set in it, and all but the first process become silent.

    Raises
    ------
    ConfigError
        If there are fewer GPUs than processes, or the process group cannot be initialised.
    """
    arguments: dict[str, Any] = {"init_method": "env://"}
    local = int(settings.get("local_rank", os.environ.get("LOCAL_RANK", 0)))
    if "local_rank" in settings:  # RecBole starts its processes without torchrun
        arguments = {
            "init_method": f"tcp://{settings.get('ip', 'localhost')}:{settings['port']}",
            "rank": local + int(settings.get("offset", 0)),
            "world_size": int(settings["world_size"]),
        }
    on_gpu = bool(settings["use_gpu"]) and torch.cuda.is_available()
    if on_gpu and torch.cuda.device_count() <= local:
        raise ConfigError(
            f"process {local} of this machine has no GPU of its own (there are "
            f"{torch.cuda.device_count()}): start fewer, or use_gpu=False"
        )
    if not dist.is_initialized():
        timeout = timedelta(seconds=settings.get("process_timeout") or 1800)
        try:
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout, **arguments)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"the process group cannot be initialised: {error}") from error
    if on_gpu:
        torch.cuda.set_device(local)
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    settings.update(device=device, local_rank=local, world_size=world_size(), single_spec=False)
    if rank():
        settings.update(state="error", show_progress=False)


@contextmanager
def process_group() -> Iterator[None]:
    """Leave the process group at the end of the block; TrainingError if a process is lost."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not any(word in str(error).lower() for word in _LOST):
            raise
        raise TrainingError(
            f"process {rank()} of {world_size()} has lost another one, which ended or was "
            "silent for too long: its own message says why"
        ) from error
    if world_size() > 1:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum of a tensor over the processes, without gradients."""
    if world_size() == 1:
        return values
    out = values.detach().clone()
    dist.all_reduce(out)
    return out


def broadcast_flag(decision: bool, device: torch.device) -> bool:
    """Broadcast a flag of the first process."""
    if world_size() == 1:
        return decision
    flag = torch.tensor(int(decision), device=device)
    dist.broadcast(flag, 0)
    return bool(flag)


def all_gather_rows(rows: Tensor) -> Tensor:
    """Rows [n, d] of all processes in their order, [N, d]; n may differ between processes.

    Gradients reach a process' own rows only: of a loss over all rows that every process computes,
    the sum of the gradients over the processes is right.
    """
    if world_size() == 1:
        return rows
    rows = rows.float()  # not every backend supports half precision
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = max(int(count) for count in counts)
    padded = rows.detach().new_zeros(most, rows.shape[1])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    pieces = [part[: int(count)] for part, count in zip(parts, counts, strict=True)]
    pieces[rank()] = rows
    return torch.cat(pieces)


def count_once(loss: Tensor) -> Tensor:
    """Divide the value of a loss that every process computes; its gradient stays."""
    if world_size() == 1:
        return loss
    return loss - loss.detach() * (1 - 1 / world_size())


class SplitLoss(torch.nn.Module):
    """A model's loss on this process' part of a batch, for torch's data parallelism.

    ``loss`` may be replaced by that of one epoch.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.loss = model, model.calculate_loss

    def forward(self, interaction) -> Tensor:
        """Loss times the number of processes: torch averages gradients, a batch needs the sum."""
        return self.loss(interaction) * world_size()


def data_parallel(model: Any, device: torch.device) -> torch.nn.Module:
    """Wrap a model so that the gradients of its trainable parameters are the whole batch's."""
    with warnings.catch_warnings():  # older torch lacks the replacement
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.parallel.DistributedDataParallel(
            SplitLoss(model),
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,  # none changes in training, and some are large
            find_unused_parameters=True,  # a part of a batch may lack what another has
        )
