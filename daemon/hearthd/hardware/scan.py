"""Scan: the child process that asks drivers: `python -m hearthd.hardware.scan SOURCE`.

For each line on its standard input it looks once, and writes Findings as one line of JSON. A driver
that hangs holds up nobody but this process; one that fails ends it, so that the next has the library anew.
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import sys
from pathlib import Path
from typing import get_args

import msgspec

from hearthd.hardware.amd import amd_device
from hearthd.hardware.device import Device, Findings
from hearthd.hardware.energy import EnergyMeter
from hearthd.hardware.intel import intel_device
from hearthd.hardware.memory import memory_of
from hearthd.hardware.npu import npu_devices
from hearthd.hardware.nvidia import nvidia_findings
from hearthd.hardware.nvml import LIBRARY, Nvml, NvmlError
from hearthd.hardware.pci import AMD, INTEL, NVIDIA, PciFunction, driver_label, read_functions
from hearthd.hardware.platform_gpu import platform_devices
from hearthd.hardware.sources import Source
from hearthd.hardware.tree import Tree

PR_SET_PDEATHSIG = 1


class NvmlScan:
    """Keeps the library open between looks; one that fails ends the process, and its files with it."""

    def __init__(self, tree: Tree, library: str) -> None:
        """Raises OSError, NvmlError."""
        self._tree = tree
        self._nvml = Nvml(library)

    def look(self) -> Findings:
        """Raises NvmlError."""
        functions = {function.address: function for function in read_functions(self._tree)}
        return nvidia_findings(self._nvml, functions, memory_of(self._tree))


class SysfsScan:
    """GPUs of the other makers, NPUs, and NVIDIA's cards as the kernel sees them."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._meter = EnergyMeter()

    def look(self) -> Findings:
        """Never raises."""
        tree, host = self._tree, memory_of(self._tree)
        cards = [self._card(function) for function in read_functions(tree) if function.is_display]
        devices = [card for card in cards if card is not None]
        return Findings([*devices, *npu_devices(tree, host), *platform_devices(tree, host)])

    def _card(self, function: PciFunction) -> Device | None:
        host = memory_of(self._tree)
        if function.vendor == AMD:
            return amd_device(self._tree, function, host)
        if function.vendor == INTEL:
            return intel_device(self._tree, function, host, self._meter)
        if function.vendor == NVIDIA:
            return unseen_nvidia(self._tree, function)
        return None  # displays of servers and of virtual machines


def unseen_nvidia(tree: Tree, function: PciFunction) -> Device:
    """A card on the bus, which counts only where NVML does not list it."""
    driver = function.driver
    return Device(
        name="",
        identity=f"pci:{function.address}",
        kind="gpu",
        vendor="nvidia",
        description=f"NVIDIA GPU {function.device:04x}",
        state="failed",
        problem="NVIDIA's driver does not list it"
        if driver == "nvidia"
        else f"its driver is {driver or 'not loaded'}; NVIDIA's is needed",
        driver=driver_label(tree, driver),
        pci=function.address,
        numa_node=function.numa_node,
    )


def main() -> int:
    """Look whenever asked, until the other end is closed."""
    parser = argparse.ArgumentParser(prog="hearthd.hardware.scan")
    parser.add_argument("source", choices=get_args(Source))
    parser.add_argument("--root", default="/")
    parser.add_argument("--library", default=LIBRARY)
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tree = Tree(Path(arguments.root))
    scan: NvmlScan | SysfsScan | None = None
    for _line in sys.stdin:
        try:
            if scan is None:
                scan = _open(arguments.source, tree, arguments.library)
            findings = scan.look()
        except (OSError, NvmlError) as error:
            _say(Findings(problems=[f"{arguments.source}: {error}"]))
            return 1
        _say(findings)
    return 0


def _open(source: Source, tree: Tree, library: str) -> NvmlScan | SysfsScan:
    """Raises what the library's start raises."""
    return NvmlScan(tree, library) if source == "nvml" else SysfsScan(tree)


def _say(findings: Findings) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(findings) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
