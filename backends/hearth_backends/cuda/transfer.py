"""Transfer: a step's integers to the device in one copy, and its results back without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hearth_backends.base import I32
from hearth_backends.cuda.device import Accelerator


def to_device(arrays: Sequence[I32], device: Accelerator) -> tuple[Tensor, ...]:
    """The arrays on the device, as views of one tensor; their shapes stay."""
    return views(to_device_flat(arrays, device), arrays)


def to_device_flat(arrays: Sequence[I32], device: Accelerator) -> Tensor:
    """All elements of the arrays one after the other, on the device.

    Memory of the host is fresh each time: one that is used again could change while it is still copied.
    """
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays], dtype=np.int32))
    if device.is_cpu:
        return flat
    return flat.pin_memory().to(device.torch, non_blocking=True)


def as_tensor(values: NDArray[Any]) -> Tensor:
    """An array of a file, which torch must not write to, or of ours, as a tensor on the host."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def views(flat: Tensor, arrays: Sequence[I32]) -> tuple[Tensor, ...]:
    """Each array's elements within a tensor that holds all of them."""
    parts = torch.split(flat, [array.size for array in arrays])
    return tuple(part.view(array.shape) for part, array in zip(parts, arrays, strict=True))


def to_host(values: Tensor, device: Accelerator) -> Tensor:
    """A copy on the host that is whole once an event recorded after this call is done."""
    if device.is_cpu:
        return values.clone()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)
