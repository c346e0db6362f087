"""Accelerator: one device of torch, whoever made it; which there are, and what they can do."""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import torch

from hearth_backends.base import DeviceInfo
from hearth_backends.errors import Unsupported

_VENDORS = {"cuda": "nvidia", "xpu": "intel", "mps": "apple"}


def accelerator_infos() -> list[DeviceInfo]:
    """What torch finds beside the processor."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        return []
    return [_info(found.type, i) for i in range(torch.accelerator.device_count())]


def _info(kind: str, index: int) -> DeviceInfo:
    module = torch.get_device_module(kind)
    free_bytes, total_bytes = module.mem_get_info(index)
    properties = module.get_device_properties(index)
    uuid = getattr(properties, "uuid", None)
    return DeviceInfo(
        name=f"{kind}:{index}",
        kind="gpu",
        description=module.get_device_name(index),
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        id=None if uuid is None else str(uuid),
        vendor="amd" if torch.version.hip else _VENDORS.get(kind),
    )


Capability: TypeAlias = tuple[int, int]
"""NVIDIA's compute capability."""


@cache
def nvidia_capability(device: torch.device) -> Capability | None:
    """None for the processor and for others' GPUs: what torch says of AMD's in the same place means something else."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def reads_fp8(capability: Capability | None) -> bool:
    """Whether Triton reads 8-bit floats there; NVIDIA's GPUs before Ada have none."""
    return capability is None or capability >= (8, 9)


class Accelerator:
    """A device with what a runner needs of it: memory figures, events, and whether it has graphs."""

    def __init__(self, name: str) -> None:
        """`name` as in DeviceInfo; raises Unsupported where torch has no such device."""
        try:
            self.torch = torch.device("cpu" if name.startswith("cpu") else name)
        except RuntimeError as error:
            raise Unsupported(f"torch has no device {name!r}: {error}") from error
        self.name = name
        self.is_cpu = self.torch.type == "cpu"

    @property
    def has_graphs(self) -> bool:
        """Whether launches can be recorded and replayed."""
        return self.torch.type == "cuda"

    @property
    def has_bf16(self) -> bool:
        """Whether bfloat16 is fast here; older GPUs have float16 only."""
        capability = nvidia_capability(self.torch)
        return not self.is_cpu and (capability is None or capability >= (8, 0))

    @property
    def reads_fp8(self) -> bool:
        """Whether kernels read keys and values in 8-bit floats here."""
        return reads_fp8(nvidia_capability(self.torch))

    @property
    def multiplies_fp8(self) -> bool:
        """Whether products of 8-bit floats are computed as such, with a scale for each row and column.

        AMD's GPUs have 8-bit floats of another kind.
        """
        capability = nvidia_capability(self.torch)
        return capability is not None and capability >= (9, 0)

    def peak_bytes(self) -> int:
        """The most that torch has held of a GPU's memory since `reset_peak`."""
        return torch.accelerator.max_memory_allocated(self.torch)

    def reset_peak(self) -> None:
        """Begin to watch for a new peak."""
        if not self.is_cpu:
            torch.accelerator.reset_peak_memory_stats(self.torch)

    def give_back(self) -> None:
        """Free what torch keeps for later."""
        if not self.is_cpu:
            torch.accelerator.empty_cache()

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        if not self.is_cpu:
            torch.accelerator.synchronize(self.torch)

    def use(self, n_threads: int) -> None:
        """Have this thread compute here from now on; on the processor, with so many threads."""
        if not self.is_cpu:
            torch.accelerator.set_device_index(self.torch)
        elif torch.get_num_threads() != n_threads:
            torch.set_num_threads(n_threads)

    def event(self) -> Event:
        """A mark behind all that was launched so far."""
        return Event(None if self.is_cpu else torch.accelerator.current_stream(self.torch))


class Event:
    """Something launched earlier; on the processor it is always done."""

    __slots__ = ("_event",)

    def __init__(self, stream: torch.Stream | None) -> None:
        self._event = None if stream is None else stream.record_event()

    def is_done(self) -> bool:
        """Whether all before it has been computed; never waits."""
        return self._event is None or self._event.query()
