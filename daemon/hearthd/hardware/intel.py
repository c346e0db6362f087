"""Intel GPUs, as the drivers xe and i915 show them."""

from __future__ import annotations

import time

from hearthd.hardware.device import Device, GpuFacts, Reading
from hearthd.hardware.energy import EnergyMeter
from hearthd.hardware.memory import HostMemory, unified_free_bytes
from hearthd.hardware.pci import PciFunction, driver_label, scaled, sensor_folder
from hearthd.hardware.tree import Tree

_DRIVERS = ("xe", "i915")
_INTEGRATED_SLOT = "0000:00:02.0"
"""Where the GPU that is part of a processor has always been."""
_BAR_FLAGS_PREFETCH = 0x8


def intel_device(tree: Tree, function: PciFunction, host: HostMemory, meter: EnergyMeter) -> Device:
    """One GPU; how much of its own memory is free the kernel does not tell."""
    unified = function.address == _INTEGRATED_SLOT
    usable = function.driver in _DRIVERS
    return Device(
        name="",
        identity=f"pci:{function.address}",
        kind="gpu",
        vendor="intel",
        description=f"Intel {'graphics' if unified else 'Arc'} {function.device:04x}",
        state="ready" if usable else "failed",
        problem=None
        if usable
        else f"its driver is {function.driver or 'not loaded'}; xe or i915 is needed",
        driver=driver_label(tree, function.driver),
        pci=function.address,
        numa_node=function.numa_node,
        total_bytes=host.total_bytes if unified else _vram_bytes(tree, function.path),
        unified=unified,
        gpu=GpuFacts(link=None if unified else function.link),
        reading=_reading(
            tree, function, unified_free_bytes(None, host) if unified else None, meter
        ),
    )


def _vram_bytes(tree: Tree, path: str) -> int | None:
    """Of the driver's own file, or the window to it, which is as large on cards with a resizable one."""
    told = [
        total
        for tile in tree.names(path)
        if tile.startswith("tile")
        if (total := tree.number(f"{path}/{tile}/physical_vram_size_bytes")) is not None
    ]
    if told:
        return sum(told)
    windows = [_window_bytes(line) for line in tree.lines(f"{path}/resource")[:6]]
    return max(windows, default=0) or None


def _window_bytes(line: str) -> int:
    """The size of a prefetchable window in a line "start end flags"."""
    parts = line.split()
    try:
        start, end, flags = (int(part, 16) for part in parts[:3])
    except ValueError:
        return 0
    return end - start + 1 if end > start and flags & _BAR_FLAGS_PREFETCH else 0


def _reading(tree: Tree, function: PciFunction, free: int | None, meter: EnergyMeter) -> Reading:
    sensors = sensor_folder(tree, function.path)
    if sensors is None:
        return Reading(free_bytes=free)
    energy = tree.number(f"{sensors}/energy1_input")
    temperature = tree.number(f"{sensors}/temp2_input")
    if temperature is None:
        temperature = tree.number(f"{sensors}/temp1_input")
    return Reading(
        free_bytes=free,
        temperature_celsius=scaled(temperature, 1000),
        power_watts=meter.watts(function.address, energy, time.monotonic()),
        power_limit_watts=scaled(tree.number(f"{sensors}/power1_max"), 1e6),
    )
