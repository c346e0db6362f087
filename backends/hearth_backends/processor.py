"""The processor as a device: the same for every backend that computes on it."""

from __future__ import annotations

import platform

import psutil

from hearth_backends.base import DeviceInfo


def processor() -> DeviceInfo:
    """All of it, with the memory that is free now."""
    memory = psutil.virtual_memory()
    return DeviceInfo(
        name="cpu:0",
        kind="cpu",
        description=platform.processor() or platform.machine(),
        total_bytes=memory.total,
        free_bytes=memory.available,
        cores=psutil.cpu_count(logical=False),
    )
