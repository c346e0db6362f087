"""GPUs and NPUs of each maker, from a tree of files and from a stub of NVML."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_machine import GIB, FakeMachine, Gpu, StubNvml, build_stub_nvml

from hearthd.hardware.amd import amd_device
from hearthd.hardware.device import Device, Findings
from hearthd.hardware.memory import HostMemory, unified_free_bytes
from hearthd.hardware.nvml import NvmlError
from hearthd.hardware.pci import read_functions, short_address
from hearthd.hardware.scan import NvmlScan, SysfsScan
from hearthd.hardware.sources import needed_sources
from hearthd.hardware.tree import Tree


def sysfs(machine: FakeMachine) -> list[Device]:
    return SysfsScan(Tree(machine.root)).look().devices


def listed(machine: FakeMachine, nvml: StubNvml) -> Findings:
    return NvmlScan(Tree(machine.root), nvml.library).look()


# --- NVIDIA ------------------------------------------------------------------------------------


def test_a_card_with_all_that_nvml_tells(machine: FakeMachine, nvml: StubNvml) -> None:
    machine.nvidia()
    nvml.say(Gpu())
    (device,) = listed(machine, nvml).devices
    assert device.identity == "nvidia:GPU-1"
    assert device.description == "NVIDIA GeForce RTX 4090"
    assert (device.driver, device.pci, device.numa_node) == ("nvidia 550.54.15", "0000:01:00.0", 0)
    assert (device.total_bytes, device.unified) == (24 * GIB, False)
    assert device.gpu is not None
    assert (device.gpu.capability, device.gpu.ecc, device.gpu.uncorrected_errors) == (
        "8.9",
        True,
        2,
    )
    assert device.gpu.link is not None
    assert (device.gpu.link.gigatransfers, device.gpu.link.width) == (16.0, 16)
    reading = device.reading
    assert (reading.free_bytes, reading.utilization) == (23 * GIB, 0.37)
    assert (reading.temperature_celsius, reading.power_watts) == (61.0, 123.0)
    assert reading.power_limit_watts == 450.0


def test_cards_with_links_between_them(machine: FakeMachine, nvml: StubNvml) -> None:
    other = "00000000:41:00.0"
    nvml.say(Gpu(nvlinks=(other,) * 4), Gpu("GPU-2", other, nvlinks=("00000000:01:00.0",) * 4))
    first, second = listed(machine, nvml).devices
    assert first.gpu is not None
    assert second.gpu is not None
    assert first.gpu.peers == {"0000:41:00.0": 4}
    assert second.gpu.peers == {"0000:01:00.0": 4}


def test_a_card_that_is_cut_into_instances(machine: FakeMachine, nvml: StubNvml) -> None:
    names = ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    nvml.say(Gpu("GPU-a", name="NVIDIA A100-SXM4-40GB", total_mib=7 * 4096, used_mib=0, mig=names))
    devices = listed(machine, nvml).devices
    assert [device.identity for device in devices] == ["nvidia:MIG-GPU-a-0", "nvidia:MIG-GPU-a-1"]
    assert [device.gpu and device.gpu.partition for device in devices] == ["3g.20gb", "1g.5gb"]
    assert {device.gpu.partition_of for device in devices if device.gpu} == {"nvidia:GPU-a"}
    assert [device.total_bytes for device in devices] == [4 * GIB] * 2


def test_a_card_without_memory_of_its_own(machine: FakeMachine, nvml: StubNvml) -> None:
    nvml.say(Gpu(total_mib=0, name="NVIDIA Thor"))
    (device,) = listed(machine, nvml).devices
    assert (device.unified, device.total_bytes) == (True, 32 * GIB)
    assert device.reading.free_bytes == 24 * GIB


def test_a_lost_card_takes_no_other_with_it(machine: FakeMachine, nvml: StubNvml) -> None:
    nvml.say(Gpu(ret=15), Gpu("GPU-2", "00000000:41:00.0"))
    findings = listed(machine, nvml)
    assert [device.identity for device in findings.devices] == ["nvidia:GPU-2"]
    (problem,) = findings.problems
    assert "NVIDIA GPU 0: the GPU is lost" in problem


@pytest.mark.parametrize(("code", "words"), [(9, "not loaded"), (18, "different versions")])
def test_a_driver_that_does_not_start(
    machine: FakeMachine, nvml: StubNvml, code: int, words: str
) -> None:
    nvml.say(Gpu(), init=code)
    with pytest.raises(NvmlError, match=words):
        listed(machine, nvml)


def test_an_old_driver_lacks_some_functions(machine: FakeMachine, tmp_path: Path) -> None:
    old = build_stub_nvml(tmp_path, "-DOLD")
    old.say(Gpu())
    (device,) = listed(machine, old).devices
    assert (device.total_bytes, device.reading.free_bytes) == (24 * GIB, 23 * GIB)
    assert (device.reading.power_watts, device.reading.power_limit_watts) == (123.0, None)


def test_no_library(machine: FakeMachine) -> None:
    with pytest.raises(OSError, match="libnothing"):
        NvmlScan(Tree(machine.root), "libnothing.so.1")


def test_bus_ids() -> None:
    assert short_address("00000000:C1:00.0") == "0000:c1:00.0"
    assert short_address("00010000:01:00.0") == "0000:01:00.0"


# --- AMD ---------------------------------------------------------------------------------------


def test_an_amd_card(machine: FakeMachine) -> None:
    machine.amd()
    machine.write("sys/module/amdgpu/version", "6.10.5")
    (device,) = sysfs(machine)
    assert (device.identity, device.vendor, device.state) == ("amd:a1b20001", "amd", "ready")
    assert (device.description, device.driver) == ("AMD navi31", "amdgpu 6.10.5")
    assert (device.total_bytes, device.reading.free_bytes) == (24 * GIB, 23 * GIB)
    assert device.gpu is not None
    assert device.gpu.capability == "gfx1100"
    reading = device.reading
    assert (reading.utilization, reading.temperature_celsius) == (0.17, 52.0)
    assert (reading.power_watts, reading.power_limit_watts) == (43.0, 300.0)


@pytest.mark.parametrize(("version", "name"), [(90010, "gfx90a"), (110003, "gfx1103")])
def test_architectures(machine: FakeMachine, version: int, name: str) -> None:
    machine.amd(gfx=version)
    (device,) = sysfs(machine)
    assert device.gpu is not None
    assert device.gpu.capability == name


@pytest.mark.parametrize(("available", "free"), [(24 * GIB, 20 * GIB), (5 * GIB, 5 * GIB)])
def test_an_amd_gpu_that_shares_the_hosts_memory(
    machine: FakeMachine, available: int, free: int
) -> None:
    machine.host(available=available)
    machine.amd(vram=GIB, vram_used=GIB, gtt=24 * GIB, gtt_used=4 * GIB)
    (device,) = sysfs(machine)
    assert (device.unified, device.total_bytes, device.reading.free_bytes) == (True, 25 * GIB, free)


def test_an_amd_card_without_its_compute_node(machine: FakeMachine) -> None:
    machine.pci("0000:03:00.0", 0x1002, 0x744C, None)
    (function,) = read_functions(Tree(machine.root))
    device = amd_device(Tree(machine.root), function, HostMemory(GIB, None))
    assert device.state == "failed"
    assert device.problem == "its driver is not loaded; amdgpu is needed"


# --- Intel, NPUs, chips ------------------------------------------------------------------------


def test_an_intel_card(machine: FakeMachine) -> None:
    path = machine.intel()
    scan = SysfsScan(Tree(machine.root))
    (device,) = scan.look().devices
    assert (device.identity, device.vendor) == ("pci:0000:0a:00.0", "intel")
    assert (device.total_bytes, device.unified) == (16 * GIB, False)
    assert (device.reading.temperature_celsius, device.reading.power_watts) == (41.0, None)
    machine.write(f"{path}/hwmon/hwmon4/energy1_input", 9_000_000)
    (device,) = scan.look().devices
    assert (device.reading.power_watts or 0) > 0


def test_an_intel_gpu_of_a_processor_and_its_npu(machine: FakeMachine) -> None:
    machine.intel("0000:00:02.0", driver="i915")
    machine.npu()
    gpu, npu = sysfs(machine)
    assert (gpu.kind, gpu.unified, gpu.total_bytes) == ("gpu", True, 32 * GIB)
    assert gpu.reading.free_bytes == 24 * GIB
    assert (npu.kind, npu.vendor, npu.identity) == ("npu", "intel", "pci:0000:00:0b.0")
    assert npu.unified


def test_a_jetson_whose_gpu_nvml_does_not_know(machine: FakeMachine) -> None:
    machine.write("proc/device-tree/compatible", "nvidia,p3737\0nvidia,tegra234\0")
    machine.write("proc/device-tree/model", "NVIDIA Jetson AGX Orin")
    machine.link("sys/module/nvgpu/holders", "sys/holders")
    machine.write("sys/devices/platform/gpu.0/load", 250)
    assert needed_sources(Tree(machine.root), None) == ["sysfs"]
    (device,) = sysfs(machine)
    assert (device.identity, device.vendor) == ("platform:tegra", "nvidia")
    assert (device.unified, device.reading.utilization) == (True, 0.25)


def test_a_gpu_of_a_chip(machine: FakeMachine) -> None:
    machine.link("sys/class/drm/renderD128/device", "sys/devices/platform/406400000.gpu")
    machine.link("sys/devices/platform/406400000.gpu/driver", "sys/bus/platform/drivers/asahi")
    (device,) = sysfs(machine)
    assert (device.vendor, device.unified) == ("apple", True)


def test_displays_that_compute_nothing_are_no_devices(machine: FakeMachine) -> None:
    machine.pci("0000:00:02.0", 0x1234, 0x1111, "bochs-drm")
    machine.pci("0000:00:03.0", 0x8086, 0x1234, "e1000e", klass=0x020000)
    assert sysfs(machine) == []


@pytest.mark.parametrize(
    ("device_free", "free"), [(None, 10), (4, 4), (20, 10)], ids=["unknown", "less", "more"]
)
def test_unified_memory_is_the_smaller_of_two_truths(device_free: int | None, free: int) -> None:
    assert unified_free_bytes(device_free, HostMemory(10, None)) == free


def test_sources_are_asked_only_where_there_is_a_sign_of_them(machine: FakeMachine) -> None:
    tree = Tree(machine.root)
    assert needed_sources(tree, None) == []
    assert needed_sources(tree, "/lib/x.so") == ["nvml"]
    machine.amd()
    assert needed_sources(tree, None) == ["sysfs"]
    machine.nvidia()
    assert needed_sources(tree, None) == ["nvml", "sysfs"]
