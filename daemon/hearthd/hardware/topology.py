"""Topology: the processors this process may run on, their cores, memory nodes and instructions."""

from __future__ import annotations

from dataclasses import dataclass, field

from hearthd.hardware.groups import allowed_cpus, lineage, quota_cpus
from hearthd.hardware.tree import Tree, parse_fields, parse_list

_CPU = "sys/devices/system/cpu"
_NODE = "sys/devices/system/node"

ISA = {
    "avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx_vnni": "avx-vnni", "avx512f": "avx512",
    "avx512_vnni": "avx512-vnni", "avx512_bf16": "avx512-bf16", "avx512_fp16": "avx512-fp16",
    "amx_tile": "amx", "amx_int8": "amx-int8", "amx_bf16": "amx-bf16",
    "asimd": "neon", "neon": "neon", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16",
    "asimdhp": "fp16", "sve": "sve", "sve2": "sve2", "sme": "sme",
}  # fmt: skip
"""The kernel's word for an instruction set, and ours."""
_VENDORS = {
    "GenuineIntel": "intel", "AuthenticAMD": "amd", "HygonGenuine": "hygon",
    "0x41": "arm", "0x4e": "nvidia", "0x51": "qualcomm", "0x61": "apple", "0xc0": "ampere",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """A memory node and the processors beside it that may be used."""

    number: int
    cpus: tuple[int, ...]
    cores: int
    fast_cores: int
    distances: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topology:
    """Of one host, as this process may use it."""

    vendor: str
    description: str
    isa: tuple[str, ...]
    nodes: tuple[Node, ...]  # those with usable processors
    quota_cpus: float | None  # processors' time that control groups grant

    @property
    def cores(self) -> int:
        """Physical ones that may be used."""
        return sum(node.cores for node in self.nodes)


def default_threads(fast_cores: int, quota: float | None) -> int:
    """Threads that compute at once without waiting for each other; pure.

    A core's second thread, a slower core and a thread that its control group has stopped would each
    hold up all others at the end of every operation.
    """
    return max(1, fast_cores if quota is None else min(fast_cores, int(quota)))


@dataclass(frozen=True, slots=True)
class Allowance:
    """What this process may use; cheap to read, so a change is noticed by reading it again."""

    cpus: frozenset[int]
    quota_cpus: float | None


def read_allowance(tree: Tree) -> Allowance:
    """Processors that are online, in the process's mask and in its control groups' sets."""
    status = parse_fields(tree.lines("proc/self/status"))
    cpus = parse_list(tree.text(f"{_CPU}/online")) or _numbered(tree.names(_CPU), "cpu")
    root, membership = tree.path("sys/fs/cgroup"), tree.path("proc/self/cgroup")
    for some in (
        parse_list(status.get("Cpus_allowed_list")),
        allowed_cpus(lineage(root, membership, "cpuset")),
    ):
        if some and cpus & some:
            cpus &= some
    return Allowance(cpus or frozenset({0}), quota_cpus(lineage(root, membership, "cpu")))


def read_topology(tree: Tree, allowance: Allowance) -> Topology:
    """The whole of it; some files for each processor, so it is read when the allowance changes."""
    facts = _cpuinfo(tree)
    cores = {cpu: _core_of(tree, cpu) for cpu in allowance.cpus}
    fast = _fast_cpus(tree, allowance.cpus)
    nodes = []
    for number, cpus in sorted(_nodes(tree, allowance.cpus).items()):
        nodes.append(
            Node(
                number,
                tuple(sorted(cpus)),
                len({cores[cpu] for cpu in cpus}),
                len({cores[cpu] for cpu in cpus & fast} or {cores[cpu] for cpu in cpus}),
                _distances(tree, number),
            )
        )
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return Topology(
        vendor=_VENDORS.get(
            facts.get("vendor_id") or facts.get("CPU implementer") or "", "unknown"
        ),
        description=_description(tree, facts),
        isa=tuple(dict.fromkeys(ISA[flag] for flag in flags if flag in ISA)),
        nodes=tuple(nodes),
        quota_cpus=allowance.quota_cpus,
    )


def _cpuinfo(tree: Tree) -> dict[str, str]:
    """Of the first processor."""
    return parse_fields(tree.lines("proc/cpuinfo"))


def _description(tree: Tree, facts: dict[str, str]) -> str:
    return (
        facts.get("model name")
        or facts.get("Model")
        or tree.text("proc/device-tree/model")
        or facts.get("Hardware")
        or "processor"
    )


def _core_of(tree: Tree, cpu: int) -> tuple[int, int, int]:
    """What two threads of one core have in common; a processor that tells nothing is a core."""
    topology = f"{_CPU}/cpu{cpu}/topology"
    core = tree.number(f"{topology}/core_id")
    if core is None or core < 0:
        return -1, -1, cpu
    package = tree.number(f"{topology}/physical_package_id")
    cluster = tree.number(f"{topology}/die_id")
    return package or 0, cluster or 0, core


def _fast_cpus(tree: Tree, cpus: frozenset[int]) -> frozenset[int]:
    """Those that are not the slow ones of a mixed processor."""
    efficient = parse_list(tree.text("sys/devices/cpu_atom/cpus"))
    if efficient and cpus - efficient:
        return cpus - efficient
    capacities = {cpu: tree.number(f"{_CPU}/cpu{cpu}/cpu_capacity") for cpu in cpus}
    known = [capacity for capacity in capacities.values() if capacity is not None]
    if len(known) < len(cpus):
        return cpus
    best = max(known)
    return frozenset(
        cpu for cpu, capacity in capacities.items() if 10 * (capacity or 0) >= 7 * best
    )


def _nodes(tree: Tree, cpus: frozenset[int]) -> dict[int, frozenset[int]]:
    """Usable processors by memory node; one node where the kernel knows of none."""
    found = {
        number: parse_list(tree.text(f"{_NODE}/node{number}/cpulist")) & cpus
        for number in _numbered(tree.names(_NODE), "node")
    }
    found = {number: some for number, some in found.items() if some}
    rest = cpus - frozenset().union(*found.values())
    if rest:
        found[0] = found.get(0, frozenset()) | rest
    return found


def _distances(tree: Tree, number: int) -> dict[int, int]:
    numbers = sorted(_numbered(tree.names(_NODE), "node"))
    values = (tree.text(f"{_NODE}/node{number}/distance") or "").split()
    return {
        other: int(value)
        for other, value in zip(numbers, values, strict=False)
        if value.isdecimal() and other != number
    }


def _numbered(names: list[str], prefix: str) -> frozenset[int]:
    rests = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return frozenset(int(rest) for rest in rests if rest.isdecimal())
