"""What was found out of a device with a backend: whether it computes rightly, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from hearthd.hardware.device import Device
from hearthd.hardware.inventory import Inventory

CheckOutcome: TypeAlias = Literal["passed", "warned", "failed", "skipped"]
PairOutcome: TypeAlias = Literal["passed", "failed", "unsupported", "untested"]
"""unsupported: the backend runs nothing on it. untested: the test itself could not be done."""

MOST_FOREIGN_CPUS = 0.25
"""While others take more, a measurement is not to be relied on, and is made again."""
LEAST_OF_LAST = 0.5
"""A bandwidth below this part of the last one is worth a warning."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str  # "load", "answers", "numbers", "twice", "memory", "bandwidth"
    outcome: CheckOutcome
    detail: str
    seconds: float


class SelfTest(msgspec.Struct, frozen=True):
    """What the child that tests says."""

    passed: bool
    checks: list[Check]
    copy_bytes_per_second: float | None = None


class Calibration(msgspec.Struct, frozen=True):
    """What the child that measures says; None: not measured on this device."""

    threads: int
    weights: str  # how the measured layer is stored
    layer_bytes: int
    layer_seconds: dict[int, float]  # of one layer, by rows of a step
    matmul_flops: dict[int, float]  # a second, by rows of a step
    weights_bytes_per_second: float  # read by a step of one row
    foreign_cpus: float = 0.0  # processors' worth of time that others took meanwhile
    copy_bytes_per_second: float | None = None
    disk_bytes_per_second: float | None = None


class PairReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept of one device with one backend, for one version of driver and backend."""

    device: str
    identity: str
    backend: str
    backend_device: str  # what the backend calls it
    version: str
    outcome: PairOutcome
    reason: str | None = None
    remedy: str | None = None
    checks: list[Check] = []
    seconds: float = 0.0
    unix_seconds: float = 0.0
    copy_bytes_per_second: float | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A device and a backend that lists it."""

    device: Device
    backend: str
    version: str  # of the device's driver, and of the backend

    @property
    def backend_device(self) -> str:
        """What the backend calls the device."""
        return self.device.backends[self.backend]


def pairs_of(inventory: Inventory, versions: dict[str, str]) -> list[Pair]:
    """Every pair that could be tested now; pure."""
    return [
        Pair(device, backend, f"{device.driver or 'no driver'}, {versions.get(backend, '')}")
        for device in inventory.present
        if device.state == "ready"
        for backend in device.backends
    ]


def find(pair: Pair, reports: list[PairReport]) -> PairReport | None:
    """What is known of a pair in its version; pure."""
    key = (pair.device.identity, pair.backend, pair.version)
    return next((r for r in reports if (r.identity, r.backend, r.version) == key), None)


def is_reliable(calibration: Calibration | None) -> bool:
    """Whether it was made, and nothing else went on meanwhile; pure."""
    return calibration is not None and calibration.foreign_cpus <= MOST_FOREIGN_CPUS


def better(new: Calibration, old: Calibration | None) -> Calibration:
    """The one that others disturbed less, the newer where both may be relied on; pure."""
    if old is None or is_reliable(new) or new.foreign_cpus <= old.foreign_cpus:
        return new
    return old


def with_last_bandwidth(report: PairReport, last: PairReport | None) -> PairReport:
    """The report, with a warning where memory is much slower than the last time; pure."""
    now = report.copy_bytes_per_second
    before = None if last is None else last.copy_bytes_per_second
    if now is None or before is None or now >= LEAST_OF_LAST * before:
        return report
    detail = f"{now / 1e9:.1f} GB/s copied, {before / 1e9:.1f} GB/s the last time"
    checks = [
        msgspec.structs.replace(check, outcome="warned", detail=detail)
        if check.name == "bandwidth"
        else check
        for check in report.checks
    ]
    return msgspec.structs.replace(report, checks=checks)


def quarantine(
    reports: list[PairReport], inventory: Inventory, versions: dict[str, str]
) -> dict[str, str]:
    """ "BACKEND DEVICE" that nothing is put on, in the backend's words, to the reason; pure.

    As long as versions are not known, what failed in any of them counts.
    """
    known = versions != {}
    now = {(p.device.identity, p.backend): p for p in pairs_of(inventory, versions) if known}
    held = {}
    for report in reports:
        pair = now.get((report.identity, report.backend))
        if report.outcome != "failed" or (pair is not None and pair.version != report.version):
            continue
        held[f"{report.backend} {report.backend_device}"] = f"{report.reason}; {report.remedy}"
    return held


def remedy(device: Device, failed: str) -> str:
    """What to do about a device that fails a check; pure."""
    again = "then run `hearth selftest` again"
    if failed == "memory":
        return f"test the machine's memory, and replace what is broken; {again}"
    if device.kind == "cpu":
        return (
            "take back overclocking and test the machine's memory, or install the backend anew; "
            f"{again}"
        )
    return (
        f"update its driver ({device.driver or 'unknown'}) or the backend; where it stays so, the "
        f"device is broken; {again}"
    )
