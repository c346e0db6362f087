"""Processors: cores, threads, nodes, control groups and instructions, from files."""

from __future__ import annotations

import msgspec
import pytest
from fake_machine import GIB, FakeMachine

from hearthd.hardware.host import Host, cpus_to_keep_to, threads_for
from hearthd.hardware.inventory import Inventory, SourceReport, merge
from hearthd.hardware.topology import Topology, default_threads, read_allowance, read_topology
from hearthd.hardware.tree import Tree, parse_list


def topology(machine: FakeMachine) -> Topology:
    tree = Tree(machine.root)
    return read_topology(tree, read_allowance(tree))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-3,8,10-11", {0, 1, 2, 3, 8, 10, 11}),
        ("", set()),
        (None, set()),
        ("5", {5}),
        ("x-2", set()),
    ],
)
def test_lists_of_the_kernel(text: str | None, numbers: set[int]) -> None:
    assert parse_list(text) == numbers


def test_two_threads_of_a_core_are_one_core(machine: FakeMachine) -> None:
    machine.host(nodes=[range(8)], threads_per_core=2)
    assert [(node.cores, node.cpus) for node in topology(machine).nodes] == [(4, tuple(range(8)))]


def test_half_a_core_is_still_a_core(machine: FakeMachine) -> None:
    machine.host(nodes=[range(8)], threads_per_core=2)
    machine.allow("0-2")
    assert topology(machine).cores == 2


def test_nodes_whose_processors_may_not_be_used_are_no_devices(machine: FakeMachine) -> None:
    machine.host(nodes=[range(4), range(4, 8)])
    assert [node.number for node in topology(machine).nodes] == [0, 1]
    assert topology(machine).nodes[1].distances == {0: 21}
    machine.allow("4-6")
    assert [(node.number, node.cores) for node in topology(machine).nodes] == [(1, 3)]


@pytest.mark.parametrize(
    ("membership", "group", "files"),
    [
        ("0::/a/b", "", {"a/cpuset.cpus.effective": "1-2", "a/b/cpu.max": "max 100000",
                         "a/cpu.max": "150000 100000"}),
        ("4:cpuset:/a\n2:cpu,cpuacct:/a", "", {"cpuset/a/cpuset.effective_cpus": "1-2",
                                               "cpu,cpuacct/a/cpu.cfs_quota_us": "150000",
                                               "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}),
    ],
)  # fmt: skip
def test_control_groups_of_both_versions(
    machine: FakeMachine, membership: str, group: str, files: dict[str, str]
) -> None:
    machine.host(nodes=[range(4)])
    machine.write("proc/self/cgroup", membership)
    for name, text in files.items():
        machine.write(f"sys/fs/cgroup/{name}", text)
    allowance = read_allowance(Tree(machine.root))
    assert (allowance.cpus, allowance.quota_cpus) == (frozenset({1, 2}), 1.5)


def test_no_quota_of_version_1_is_no_limit(machine: FakeMachine) -> None:
    machine.write("proc/self/cgroup", "2:cpu:/")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert read_allowance(Tree(machine.root)).quota_cpus is None


@pytest.mark.parametrize(
    ("cores", "quota", "threads"), [(8, None, 8), (8, 3.5, 3), (8, 0.5, 1), (2, 16.0, 2)]
)
def test_threads_never_exceed_what_is_granted(
    cores: int, quota: float | None, threads: int
) -> None:
    assert default_threads(cores, quota) == threads


@pytest.mark.parametrize("told_by", ["list", "capacity"])
def test_slow_cores_get_no_thread(machine: FakeMachine, told_by: str) -> None:
    machine.host(nodes=[range(6)])
    if told_by == "list":
        machine.write("sys/devices/cpu_atom/cpus", "4-5")
    else:
        for cpu in range(6):
            capacity = 1024 if cpu < 4 else 446
            machine.write(f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity", capacity)
    (device,) = Host(Tree(machine.root)).look().devices
    assert device.cpu is not None
    assert (device.cpu.cores, device.cpu.fast_cores) == (6, 4)


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("sse avx2 avx512f avx512_vnni", ["avx2", "avx512", "avx512-vnni"]),
        ("avx_vnni amx_tile amx_int8 amx_bf16", ["avx-vnni", "amx", "amx-int8", "amx-bf16"]),
    ],
)
def test_instructions(machine: FakeMachine, flags: str, isa: list[str]) -> None:
    machine.host(flags=flags)
    assert list(topology(machine).isa) == isa


def test_an_arm_processor(machine: FakeMachine) -> None:
    machine.write(
        "proc/cpuinfo",
        "processor: 0\nFeatures: fp asimd asimddp i8mm sve sve2\nCPU implementer: 0x41\n",
    )
    machine.write("proc/device-tree/model", "Some Board")
    found = topology(machine)
    assert (found.vendor, found.description) == ("arm", "Some Board")
    assert found.isa == ("neon", "dotprod", "i8mm", "sve", "sve2")


def test_memory_of_nodes_and_threads_by_device(machine: FakeMachine) -> None:
    machine.host(nodes=[range(8), range(8, 12)], threads_per_core=2, total=64 * GIB)
    inventory = merge(Inventory(), {"host": SourceReport(Host(Tree(machine.root)).look())}, {})
    assert [device.name for device in inventory.devices] == ["cpu:0", "cpu:1"]
    assert [device.total_bytes for device in inventory.devices] == [32 * GIB] * 2
    assert [device.reading.free_bytes for device in inventory.devices] == [12 * GIB] * 2
    names = ["cpu:0", "cpu:1", "cuda:0"]
    assert [threads_for(inventory.devices, name) for name in names] == [4, 2, 4]


def test_a_group_bounds_the_memory(machine: FakeMachine) -> None:
    machine.write("sys/fs/cgroup/service/memory.max", 4 * GIB)
    machine.write("sys/fs/cgroup/service/memory.current", GIB)
    (device,) = Host(Tree(machine.root)).look().devices
    assert (device.total_bytes, device.reading.free_bytes) == (4 * GIB, 3 * GIB)


def test_heat_and_power_of_processors(machine: FakeMachine) -> None:
    machine.write("sys/class/hwmon/hwmon0/name", "coretemp")
    machine.write("sys/class/hwmon/hwmon0/temp1_input", 47000)
    machine.write("sys/class/hwmon/hwmon0/temp2_input", 55000)
    machine.write("sys/class/powercap/intel-rapl:0/energy_uj", 1)
    host = Host(Tree(machine.root))
    (first,) = host.look().devices
    assert (first.reading.temperature_celsius, first.reading.power_watts) == (55.0, None)
    machine.write("sys/class/powercap/intel-rapl:0/energy_uj", 5_000_000)
    (second,) = host.look().devices
    assert (second.reading.power_watts or 0) > 0


def test_a_tree_with_nothing_is_one_processor(machine: FakeMachine) -> None:
    for name in ("proc", "sys"):
        machine.remove(name)
    (device,) = Host(Tree(machine.root)).look().devices
    assert (device.cpu and device.cpu.cores, device.description) == (1, "processor")


def test_a_mask_that_changes_is_noticed(machine: FakeMachine) -> None:
    machine.host(nodes=[range(4)])
    host = Host(Tree(machine.root))
    host.look()
    machine.allow("0")
    (device,) = host.look().devices
    assert device.cpu is not None
    assert device.cpu.cpus == [0]


def test_models_keep_to_their_node_where_there_are_several(machine: FakeMachine) -> None:
    (one,) = Host(Tree(machine.root)).look().devices
    assert cpus_to_keep_to([msgspec.structs.replace(one, name="cpu:0")], "cpu:0") is None
    machine.host(nodes=[range(4), range(4, 8)])
    found = merge(Inventory(), {"host": SourceReport(Host(Tree(machine.root)).look())}, {})
    assert cpus_to_keep_to(found.devices, "cpu:1") == frozenset({4, 5, 6, 7})
    assert cpus_to_keep_to(found.devices, "cuda:0") is None
