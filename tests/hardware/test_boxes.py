"""Eight boxes that are not here: what the monitor makes of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
from fake_machine import GIB, FakeMachine, Gpu, StubNvml

from hearthd.hardware.monitor import DeviceMonitor, MonitorOptions
from hearthd.placement.budgets import DeviceBudgets
from hearthd.placement.ledger import Ledger

Build = Callable[[FakeMachine, StubNvml], None]


def address(number: int) -> str:
    return f"0000:{number:02x}:00.0"


def gpus(machine: FakeMachine, nvml: StubNvml, *totals_gib: int, **fields: object) -> None:
    """Cards of these sizes, on the bus and in NVML."""
    listed = []
    for i, total in enumerate(totals_gib, start=1):
        machine.nvidia(address(i))
        gpu = Gpu(f"GPU-{i}", f"0000{address(i)}", total * 1024, 0, **fields)  # type: ignore[arg-type]
        listed.append(gpu)
    nvml.say(*listed)


def one_card(machine: FakeMachine, nvml: StubNvml) -> None:
    gpus(machine, nvml, 24)


def two_unequal(machine: FakeMachine, nvml: StubNvml) -> None:
    gpus(machine, nvml, 24, 12)


def eight_equal(machine: FakeMachine, nvml: StubNvml) -> None:
    machine.host(nodes=[range(8), range(8, 16)])
    gpus(machine, nvml, *[80] * 8)


def amd_and_nvidia(machine: FakeMachine, nvml: StubNvml) -> None:
    gpus(machine, nvml, 16)
    machine.amd(address(9))


def intel_with_npu(machine: FakeMachine, nvml: StubNvml) -> None:
    machine.host(nodes=[range(8)], flags="avx2 avx_vnni", available=20 * GIB)
    machine.write("sys/devices/cpu_atom/cpus", "4-7")
    machine.intel("0000:00:02.0")
    machine.npu()


def jetson(machine: FakeMachine, nvml: StubNvml) -> None:
    machine.host(nodes=[range(12)], total=64 * GIB, available=50 * GIB)
    machine.write("proc/device-tree/compatible", "nvidia,tegra264")
    machine.link("sys/module/nvidia/holders", "sys/holders")
    nvml.say(Gpu(total_mib=0, name="NVIDIA Thor"))


def numa_only(machine: FakeMachine, nvml: StubNvml) -> None:
    nodes = [range(8 * i, 8 * i + 8) for i in range(4)]
    machine.host(nodes=nodes, threads_per_core=2, total=256 * GIB, available=240 * GIB)


def partitioned(machine: FakeMachine, nvml: StubNvml) -> None:
    machine.nvidia(address(1))
    names = ("A100 MIG 3g.20gb", "A100 MIG 2g.10gb", "A100 MIG 1g.5gb")
    nvml.say(Gpu("GPU-1", f"0000{address(1)}", 7 * 5120, 0, "A100", mig=names))


@dataclass(frozen=True)
class Box:
    """A box, and the memory of its devices in GiB by name."""

    build: Build
    devices: Mapping[str, float]
    unified: tuple[str, ...] = ()


BOXES = [
    Box(one_card, {"cpu:0": 32, "cuda:0": 24}),
    Box(two_unequal, {"cpu:0": 32, "cuda:0": 24, "cuda:1": 12}),
    Box(eight_equal, {"cpu:0": 16, "cpu:1": 16} | {f"cuda:{i}": 80 for i in range(8)}),
    Box(amd_and_nvidia, {"cpu:0": 32, "cuda:0": 16, "rocm:0": 24}),
    Box(intel_with_npu, {"cpu:0": 32, "xpu:0": 32, "npu:0": 32}, ("xpu:0", "npu:0")),
    Box(jetson, {"cpu:0": 64, "cuda:0": 64}, ("cuda:0",)),
    Box(numa_only, {f"cpu:{i}": 64 for i in range(4)}),
    Box(partitioned, {"cpu:0": 32, "cuda:0": 5, "cuda:1": 5, "cuda:2": 5}),
]


@pytest.mark.parametrize("box", BOXES, ids=lambda box: box.build.__name__)
async def test_a_box(box: Box, machine: FakeMachine, nvml: StubNvml) -> None:
    box.build(machine, nvml)
    library = nvml.library if any(name.startswith("cuda") for name in box.devices) else None
    options = MonitorOptions(machine.root, library, 5.0, None)
    monitor = await asyncio.to_thread(DeviceMonitor, options)
    ledger = Ledger({"cpu": 100 * GIB})
    monitor.watch(DeviceBudgets(ledger, {}).on_event)
    async with monitor.running():
        await monitor.first_look(60)
        devices = monitor.inventory.devices
    assert monitor.inventory.problems == ()
    assert {d.name: (d.total_bytes or 0) / GIB for d in devices} == box.devices
    assert {d.state for d in devices} == {"ready"}
    assert tuple(d.name for d in devices if d.unified) == box.unified
    for device in devices:
        if device.kind == "cpu" or device.unified:
            assert ledger.budget_bytes(device.name) == 100 * GIB
        else:
            free = device.reading.free_bytes or 0
            assert ledger.budget_bytes(device.name) == free - max(256 << 20, free // 10)
