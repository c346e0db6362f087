"""Host: the processors and the memory as devices, one for each memory node."""

from __future__ import annotations

import time
from collections.abc import Iterable

from hearthd.hardware.device import CpuFacts, Device, Findings, Reading
from hearthd.hardware.energy import EnergyMeter
from hearthd.hardware.memory import HostMemory, memory_of, parse_kib
from hearthd.hardware.topology import (
    Allowance,
    Node,
    Topology,
    default_threads,
    read_allowance,
    read_topology,
)
from hearthd.hardware.tree import Tree, parse_fields

_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_RAPL = "sys/class/powercap"


class Host:
    """Looks at /proc and /sys, which answer at once; belongs to the start or to a thread."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._meter = EnergyMeter()
        self._known: tuple[Allowance, Topology] | None = None

    def look(self) -> Findings:
        """The memory nodes with processors that may be used."""
        topology = self._topology()
        memory = memory_of(self._tree)
        watts = self._watts()
        temperature = _temperature(self._tree)
        n_nodes = len(topology.nodes)
        return Findings(
            [
                _device(
                    self._tree,
                    topology,
                    node,
                    memory,
                    Reading(
                        temperature_celsius=temperature,
                        power_watts=watts if n_nodes == 1 else None,
                    ),
                )
                for node in topology.nodes
            ]
        )

    def _topology(self) -> Topology:
        """Read anew only when other processors may be used than before."""
        allowance = read_allowance(self._tree)
        if self._known is None or self._known[0] != allowance:
            self._known = allowance, read_topology(self._tree, allowance)
        return self._known[1]

    def _watts(self) -> float | None:
        """Of all packages together, where their counters may be read."""
        now = time.monotonic()
        packages = [
            self._meter.watts(name, self._tree.number(f"{_RAPL}/{name}/energy_uj"), now)
            for name in self._tree.names(_RAPL)
            if name.startswith("intel-rapl:") and name.count(":") == 1
        ]
        known = [watts for watts in packages if watts is not None]
        return sum(known) if known and len(known) == len(packages) else None


def threads_for(devices: Iterable[Device], name: str) -> int:
    """Threads of a model on the device of that name; pure. Beside a GPU they are the first processor's."""
    processors = [device for device in devices if device.cpu is not None]
    own = [device for device in processors if device.name == name]
    return max((threads_of(device) for device in (own or processors[:1])), default=1)


def cpus_to_keep_to(devices: Iterable[Device], name: str) -> frozenset[int] | None:
    """The processors that a model on a memory node's device is to stay on; None: on any. Pure.

    Only where there are several nodes: threads elsewhere would read all weights from afar.
    """
    nodes = {device.name: device.cpu for device in devices if device.cpu is not None}
    own = nodes.get(name)
    return frozenset(own.cpus) if own is not None and len(nodes) > 1 else None


def threads_of(device: Device) -> int:
    """Threads that a model on this device runs with unless it is told otherwise; pure."""
    if device.cpu is None:
        return 1
    return default_threads(device.cpu.fast_cores, device.cpu.quota_cpus)


def _device(
    tree: Tree, topology: Topology, node: Node, memory: HostMemory, reading: Reading
) -> Device:
    total, free = memory.usable_bytes, memory.free_bytes
    if len(topology.nodes) > 1:
        own_total, own_free = _node_memory(tree, node.number)
        total = own_total if total is None else min(total, own_total)
        free = min(free, own_free)
    return Device(
        name="",
        identity=f"node:{node.number}",
        kind="cpu",
        vendor=topology.vendor,
        description=topology.description,
        numa_node=node.number,
        total_bytes=total,
        cpu=CpuFacts(
            node=node.number,
            cpus=list(node.cpus),
            cores=node.cores,
            fast_cores=node.fast_cores,
            isa=list(topology.isa),
            quota_cpus=topology.quota_cpus,
            distances=node.distances,
        ),
        reading=Reading(
            free_bytes=free,
            temperature_celsius=reading.temperature_celsius,
            power_watts=reading.power_watts,
        ),
    )


def _node_memory(tree: Tree, number: int) -> tuple[int, int]:
    """Total of a node, and what is free or could be taken from its file cache."""
    lines = tree.lines(f"sys/devices/system/node/node{number}/meminfo")
    fields = parse_fields([line.partition(f"Node {number} ")[2] for line in lines])
    parts = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
    free = sum(parse_kib(fields.get(part)) or 0 for part in parts)
    return parse_kib(fields.get("MemTotal")) or 0, free


def _temperature(tree: Tree) -> float | None:
    """The hottest that the processors' own sensors say."""
    found = [
        millidegrees / 1000
        for sensor in tree.names("sys/class/hwmon")
        if tree.text(f"sys/class/hwmon/{sensor}/name") in _SENSORS
        for name in tree.names(f"sys/class/hwmon/{sensor}")
        if name.startswith("temp") and name.endswith("_input")
        if (millidegrees := tree.number(f"sys/class/hwmon/{sensor}/{name}")) is not None
    ]
    return max(found, default=None)
