"""Names that stay with their devices, and what is told when something changes; pure."""

from __future__ import annotations

import msgspec
import pytest

from hearthd.hardware.backend_view import BackendDevice
from hearthd.hardware.device import Device, Findings, Reading
from hearthd.hardware.inventory import (
    DeviceEvent,
    Inventory,
    SourceReport,
    events_between,
    merge,
)


def gpu(identity: str, pci: str, *, vendor: str = "nvidia", free: int = 1) -> Device:
    return Device(
        name="", identity=identity, kind="gpu", vendor=vendor, description="g", pci=pci,
        reading=Reading(free_bytes=free),
    )  # fmt: skip


CPU = Device(name="", identity="node:0", kind="cpu", vendor="amd", description="c")
A, B, C = (gpu(f"nvidia:GPU-{i}", f"0000:0{i}:00.0") for i in (1, 2, 3))


def inventory(*devices: Device, before: Inventory | None = None) -> Inventory:
    return merge(before or Inventory(), {"x": SourceReport(Findings(list(devices)))}, {})


def names(found: Inventory) -> dict[str, str]:
    return {device.identity: device.name for device in found.present}


def test_names_by_maker_in_the_order_of_the_bus() -> None:
    amd = gpu("amd:1", "0000:09:00.0", vendor="amd")
    arc = gpu("pci:0000:0a:00.0", "0000:0a:00.0", vendor="intel")
    found = inventory(arc, B, A, amd, CPU)
    assert [device.name for device in found.devices] == [
        "cpu:0",
        "cuda:0",
        "cuda:1",
        "rocm:0",
        "xpu:0",
    ]
    assert names(found)["nvidia:GPU-1"] == "cuda:0"


def test_a_name_stays_when_others_go_and_come() -> None:
    first = inventory(A, B)
    without = inventory(B, before=first)
    assert names(without) == {"nvidia:GPU-2": "cuda:1"}
    assert [(d.name, d.state) for d in without.devices] == [("cuda:0", "gone"), ("cuda:1", "ready")]
    more = inventory(B, C, before=without)
    assert names(more) == {"nvidia:GPU-2": "cuda:1", "nvidia:GPU-3": "cuda:2"}
    assert names(inventory(A, B, C, before=more))["nvidia:GPU-1"] == "cuda:0"


def test_events() -> None:
    first = inventory(A, B)
    assert [(e.kind, e.device.name) for e in events_between(Inventory(), first)] == [
        ("appeared", "cuda:0"),
        ("appeared", "cuda:1"),
    ]
    busier = inventory(A, msgspec.structs.replace(B, reading=Reading(free_bytes=0)), before=first)
    assert events_between(first, busier) == []
    gone = inventory(A, before=busier)
    (event,) = events_between(busier, gone)
    assert (event.kind, event.device.name, event.device.state) == ("gone", "cuda:1", "gone")
    assert events_between(gone, inventory(A, before=gone)) == []
    back = inventory(A, B, before=gone)
    assert [(e.kind, e.device.name) for e in events_between(gone, back)] == [("appeared", "cuda:1")]
    newer = inventory(A, msgspec.structs.replace(B, driver="nvidia 2"), before=back)
    assert [e.kind for e in events_between(back, newer)] == ["changed"]


def test_a_silent_source_keeps_its_devices_but_not_what_it_last_read() -> None:
    first = inventory(A)
    silent = merge(first, {"x": SourceReport(Findings([A]), silent=True, problem="x: no")}, {})
    (device,) = silent.devices
    assert (device.name, device.state, device.reading) == ("cuda:0", "silent", Reading())
    assert silent.problems == ("x: no",)
    assert events_between(first, silent) == [DeviceEvent("changed", device)]


BARE = msgspec.structs.replace(gpu("pci:0000:01:00.0", "0000:01:00.0"), state="failed", problem="?")


def reports(nvml: SourceReport | None) -> dict[str, SourceReport]:
    sysfs = {"sysfs": SourceReport(Findings([BARE]))}
    return sysfs if nvml is None else {**sysfs, "nvml": nvml}


def test_a_card_is_listed_once_and_by_nvml_where_it_can() -> None:
    assert merge(Inventory(), reports(None), {}).devices == ()
    found = merge(Inventory(), reports(SourceReport(Findings([A]))), {})
    assert [device.identity for device in found.devices] == ["nvidia:GPU-1"]


def test_a_card_whose_driver_fails_is_shown_with_the_reason_and_keeps_its_name() -> None:
    broken = SourceReport(Findings(problems=["nvml: versions differ"]))
    failed = merge(Inventory(), reports(broken), {})
    (device,) = failed.devices
    assert (device.name, device.state, device.problem) == (
        "cuda:0",
        "failed",
        "nvml: versions differ",
    )
    repaired = merge(failed, reports(SourceReport(Findings([A, B]))), {})
    assert names(repaired) == {"nvidia:GPU-1": "cuda:0", "nvidia:GPU-2": "cuda:1"}
    assert len(repaired.devices) == 2


def test_another_card_in_the_same_slot_is_another_device() -> None:
    other = gpu("nvidia:GPU-9", "0000:01:00.0")
    assert names(inventory(other, before=inventory(A))) == {"nvidia:GPU-9": "cuda:1"}


@pytest.mark.parametrize(
    "view",
    [
        BackendDevice("Vulkan0", "gpu", "v", id="0000:01:00.0"),
        BackendDevice("cuda:7", "gpu", "v", id="GPU-1"),
        BackendDevice("cuda:0", "gpu", "v"),
        BackendDevice("provider:0", "gpu", "v", vendor="nvidia"),
    ],
    ids=["address", "uuid", "name", "maker"],
)
def test_a_backend_means_a_device_by(view: BackendDevice) -> None:
    found = merge(Inventory(), {"x": SourceReport(Findings([A, CPU]))}, {"one": [view]})
    assert {device.name: device.backends for device in found.devices} == {
        "cpu:0": {},
        "cuda:0": {"one": view.name},
    }


def test_what_only_a_backend_lists_is_shown_as_such_and_forgotten_with_it() -> None:
    views = {
        "one": [BackendDevice("openvino:0", "npu", "OpenVINO"), BackendDevice("cpu:1", "cpu", "c")]
    }
    source = {"x": SourceReport(Findings([CPU]))}
    found = merge(Inventory(), source, views)
    assert [(d.name, d.state, d.backends) for d in found.devices] == [
        ("cpu:0", "ready", {}),
        ("openvino:0", "unconfirmed", {"one": "openvino:0"}),
    ]
    assert [d.name for d in merge(found, source, {}).devices] == ["cpu:0"]


def test_a_backend_of_one_memory_node_is_one_of_all() -> None:
    other = msgspec.structs.replace(CPU, identity="node:1")
    views = {"one": [BackendDevice("cpu:0", "cpu", "c")]}
    found = merge(Inventory(), {"x": SourceReport(Findings([CPU, other]))}, views)
    assert [device.backends for device in found.devices] == [{"one": "cpu:0"}] * 2


@pytest.mark.parametrize("pci", [None, "0000:01:00.0"])
def test_a_gpu_on_a_chip_keeps_its_name_when_nvml_tells_of_it(pci: str | None) -> None:
    bare = msgspec.structs.replace(gpu("platform:tegra", ""), pci=None, unified=True)
    told = msgspec.structs.replace(bare, identity="nvidia:GPU-1", pci=pci)
    first = inventory(bare)
    both = inventory(bare, told, before=first)
    assert [(d.name, d.identity, d.state) for d in both.devices] == [
        ("cuda:0", "nvidia:GPU-1", "ready")
    ]
    again = inventory(bare, before=both)
    assert names(again) == {"platform:tegra": "cuda:0"}
