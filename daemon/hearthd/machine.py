"""Machine: what the box has, as far as it is known before the daemon listens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hearthd.config.schema import Config
from hearthd.hardware.memory import HostMemory, memory_of
from hearthd.hardware.monitor import DeviceMonitor, MonitorOptions
from hearthd.hardware.tree import Tree


@dataclass(frozen=True, slots=True)
class Machine:
    """Its memory, and who looks for its devices."""

    memory: HostMemory
    devices: DeviceMonitor


def discover(config: Config) -> Machine:
    """Look at the processors and the memory; reads files, so it is done before the loop runs."""
    options = MonitorOptions(
        root=Path(config.hardware.root),
        nvml_library=config.hardware.nvml_library,
        poll_seconds=config.hardware.poll_seconds,
    )
    return Machine(memory_of(Tree(options.root)), DeviceMonitor(options))
