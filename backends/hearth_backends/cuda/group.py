"""Group: devices that share every layer of one model, each in a process of its own, in step with the first.

The first device's process is the engine's. It tells the others what it is about to compute and computes
it; sums over the group are where they meet. What is sampled goes from the first to all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.shard import Shard
from hearth_backends.errors import Unsupported

PATIENCE = timedelta(seconds=120)
"""How long one waits for the others before the group is given up."""


class Group:
    """One process's membership; a process can be in one group."""

    def __init__(self, shard: Shard, meeting: Path, device: Accelerator) -> None:
        """`meeting`: a file, the same for all, that was not there before; returns once all have come."""
        self.shard = shard
        self._device = device
        device.use(torch.get_num_threads())
        dist.init_process_group(
            "gloo" if device.is_cpu else dist.get_default_backend_for_device(device.torch),
            store=dist.FileStore(str(meeting), shard.size),  # type: ignore[attr-defined]  # torch exports it without saying so
            rank=shard.rank,
            world_size=shard.size,
            timeout=PATIENCE,
        )

    def sum(self, x: Tensor) -> Tensor:
        """x added up over all devices, in place."""
        dist.all_reduce(x)
        return x

    def from_first(self, x: Tensor) -> Tensor:
        """x as the first device has it, in place."""
        dist.broadcast(x, src=0)
        return x

    def close(self) -> None:
        """Leave; the others cannot go on without this one."""
        dist.destroy_process_group()


def check_nobody_meets() -> None:
    """Raise Unsupported where this process is in a group already."""
    if dist.is_initialized():
        raise Unsupported("several devices can share one model in an engine, not two")


def meeting_place(stack: ExitStack) -> Path:
    """The name of a file for a group to meet at, gone when the stack is."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hearth-group-"))
    return Path(folder) / "meeting"


def shares(n_devices: int) -> Sequence[Shard]:
    """Of each device."""
    return [Shard(rank, n_devices) for rank in range(n_devices)]
