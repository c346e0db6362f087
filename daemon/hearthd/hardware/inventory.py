"""Inventory: the devices of all sources under their names; and what changed between two of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import msgspec

from hearthd.hardware.backend_view import BackendDevice
from hearthd.hardware.device import Device, Findings, Reading, lasting

_TEGRA = "platform:tegra"
_PREFIXES = {"nvidia": "cuda", "amd": "rocm", "intel": "xpu"}

EventKind: TypeAlias = Literal["appeared", "changed", "gone"]


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What one source has said last, and whether it still answers."""

    findings: Findings = field(default_factory=Findings)
    silent: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something about a device that lasts is not as it was."""

    kind: EventKind
    device: Device


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every device since the start, those that have gone included; and what is wrong with sources."""

    devices: tuple[Device, ...] = ()
    problems: tuple[str, ...] = ()

    def get(self, name: str) -> Device | None:
        """The device of that name."""
        return next((device for device in self.devices if device.name == name), None)

    @property
    def present(self) -> tuple[Device, ...]:
        """Without those that have gone."""
        return tuple(device for device in self.devices if device.state != "gone")


def merge(
    before: Inventory,
    reports: Mapping[str, SourceReport],
    views: Mapping[str, Sequence[BackendDevice]],
) -> Inventory:
    """All that is known now; names stay with the identities that had them."""
    found = _found(reports)
    named = _name(before, found)
    listed = _with_backends(named, views)
    here = {device.identity for device in listed}
    slots = {device.name for device in listed}
    gone = [
        _gone(device)
        for device in before.devices
        if device.identity not in here and device.name not in slots
        if device.state != "unconfirmed"
    ]
    problems = [
        problem
        for report in reports.values()
        for problem in (*report.findings.problems, *([report.problem] if report.problem else []))
    ]
    return Inventory(tuple(sorted([*listed, *gone], key=_order)), tuple(dict.fromkeys(problems)))


def events_between(before: Inventory, after: Inventory) -> list[DeviceEvent]:
    """What those who use devices have to hear; readings are none of it."""
    old = {device.identity: device for device in before.devices}
    events = []
    for device in after.devices:
        was = old.get(device.identity)
        if device.state == "gone":
            if was is not None and was.state != "gone":
                events.append(DeviceEvent("gone", device))
        elif was is None or was.state == "gone":
            events.append(DeviceEvent("appeared", device))
        elif lasting(was) != lasting(device):
            events.append(DeviceEvent("changed", device))
    return events


def _found(reports: Mapping[str, SourceReport]) -> list[Device]:
    """Each device once, from the source that knows it best."""
    devices: list[Device] = []
    for report in reports.values():
        devices += (
            map(_silent, report.findings.devices) if report.silent else report.findings.devices
        )
    known = {device.pci for device in devices if device.identity.startswith("nvidia:")}
    has_tegra = any(d.identity.startswith("nvidia:") and d.unified for d in devices)
    kept = []
    for device in devices:
        if device.identity == _TEGRA and has_tegra:
            continue
        if device.vendor == "nvidia" and device.identity.startswith("pci:"):
            if device.pci in known or "nvml" not in reports:
                continue  # it is told better, or will be
            device = _with_reasons(device, reports["nvml"])
        kept.append(device)
    return kept


def _silent(device: Device) -> Device:
    return msgspec.structs.replace(
        device,
        state="silent",
        problem="its driver does not answer; where it stays so, restart the machine",
        reading=Reading(),
    )


def _with_reasons(device: Device, report: SourceReport) -> Device:
    """Why NVML does not list a card that is on the bus, in its own words."""
    reasons = [*report.findings.problems, *([report.problem] if report.problem else [])]
    return msgspec.structs.replace(device, problem="; ".join(reasons)) if reasons else device


def _gone(device: Device) -> Device:
    return msgspec.structs.replace(
        device, state="gone", problem="it is not there any more", reading=Reading()
    )


# --- names -------------------------------------------------------------------------------------


def prefix_of(device: Device) -> str:
    """What stands before the colon of a device's name."""
    if device.kind != "gpu":
        return device.kind
    return _PREFIXES.get(device.vendor, "gpu")


def _name(before: Inventory, found: Sequence[Device]) -> list[Device]:
    names = {device.identity: device.name for device in before.devices}
    here = {device.identity for device in found}
    places = {
        place: device
        for device in before.devices
        if device.identity not in here
        for place in _slots(device)
    }
    taken = set(names.values())
    named = []
    for device in sorted(found, key=_place):
        name = names.get(device.identity) or _inherited(device, places)
        if name is None:
            name = _next(prefix_of(device), taken)
        taken.add(name)
        names[device.identity] = name
        named.append(msgspec.structs.replace(device, name=name))
    return named


def _inherited(device: Device, places: dict[str, Device]) -> str | None:
    """The name of what was in the same slot: the same card, before its driver told more of it."""
    was = next((places[slot] for slot in _slots(device) if slot in places), None)
    if was is None or prefix_of(was) != prefix_of(device):
        return None
    if not _is_bare(was) and not _is_bare(device):
        return None  # another card was put in
    for slot in _slots(was):
        places.pop(slot, None)
    return was.name


def _slots(device: Device) -> tuple[str, ...]:
    """Where a device is, whoever tells of it; a GPU on a chip may have an address as well."""
    on_chip = device.vendor == "nvidia" and device.unified
    return tuple(slot for slot in (device.pci, _TEGRA if on_chip else None) if slot is not None)


def _is_bare(device: Device) -> bool:
    """Whether it is known by its place only, not by a number of its own."""
    return device.identity.startswith(("pci:", "platform:"))


def _next(prefix: str, taken: Iterable[str]) -> str:
    number = 0
    while f"{prefix}:{number}" in taken:
        number += 1
    return f"{prefix}:{number}"


def _place(device: Device) -> tuple[str, int, str]:
    node = -1 if device.cpu is None else device.cpu.node
    return device.pci or "", node, device.identity


def _order(device: Device) -> tuple[int, str, int]:
    prefix, _, number = device.name.partition(":")
    kinds = {"cpu": 0, "gpu": 1, "npu": 2}
    return kinds[device.kind], prefix, int(number) if number.isdecimal() else 0


# --- backends ----------------------------------------------------------------------------------


def _with_backends(
    devices: Sequence[Device], views: Mapping[str, Sequence[BackendDevice]]
) -> list[Device]:
    """Devices with the backends that list them, and those that only a backend lists."""
    uses: dict[str, dict[str, str]] = {device.identity: {} for device in devices}
    only: dict[str, Device] = {}
    for backend, listed in views.items():
        for view in listed:
            device = _match(view, devices)
            if device is not None:
                uses[device.identity].setdefault(backend, view.name)
            elif view.kind != "cpu":  # the kernel knows the processors for certain
                known = only.setdefault(view.name, _unconfirmed(view, backend))
                known.backends[backend] = view.name
    _share_processors(devices, uses)
    return [
        *(msgspec.structs.replace(d, backends=uses[d.identity]) for d in devices),
        *only.values(),
    ]


def _share_processors(devices: Sequence[Device], uses: dict[str, dict[str, str]]) -> None:
    """A backend that runs on one memory node runs on each: it is kept to the node from outside."""
    nodes = [uses[device.identity] for device in devices if device.kind == "cpu"]
    for listed in list(nodes):
        for backend, name in list(listed.items()):
            for node in nodes:
                node.setdefault(backend, name)


def _match(view: BackendDevice, devices: Sequence[Device]) -> Device | None:
    """The device that a backend means: by its address, its name, or as the only one of its maker."""
    if view.id is not None:
        for device in devices:
            if view.id.lower() == device.pci or device.identity.endswith(f":{view.id}"):
                return device
    for device in devices:
        if device.name == view.name and device.kind == view.kind:
            return device
    alike = [
        device
        for device in devices
        if view.vendor is not None and (device.kind, device.vendor) == (view.kind, view.vendor)
    ]
    return alike[0] if len(alike) == 1 else None


def _unconfirmed(view: BackendDevice, backend: str) -> Device:
    return Device(
        name=view.name,
        identity=f"{backend}:{view.name}",
        kind=view.kind,
        vendor=view.vendor or "unknown",
        description=view.description,
        state="unconfirmed",
        problem=f"the backend {backend} lists it, but the system shows no such device",
        total_bytes=view.total_bytes,
        reading=Reading(free_bytes=view.free_bytes),
        backends={},
    )
