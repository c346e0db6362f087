"""`hearthd selftest` and `hearthd calibrate`: the devices of this machine, whether a daemon runs or not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from hearthd.config import Config
from hearthd.hardware.checks import PairReport, is_reliable
from hearthd.hardware.checkup import Checkup
from hearthd.hardware.monitor import DeviceMonitor

Word: TypeAlias = Literal["selftest", "calibrate"]

DISCOVERY_SECONDS = 30.0


class Report(msgspec.Struct, frozen=True):
    """Of every pair of a device and a backend."""

    passed: bool
    reports: list[PairReport]
    problems: list[str]


async def check_up(
    config: Config, devices: DeviceMonitor, word: Word, hear: Callable[[PairReport], None]
) -> Report:
    """Test every pair, or test and measure it; `hear` is called with each report as it comes."""
    checkup = Checkup(devices, Path(config.state))
    reports = []
    try:
        async with devices.running():
            await devices.first_look(DISCOVERY_SECONDS)
            await devices.until_backends_known()
            await checkup.open()
            for pair in checkup.pairs():
                report = await checkup.test(pair)
                if word == "calibrate" and report.outcome == "passed":
                    report = await checkup.calibrate(pair, report)
                hear(report)
                reports.append(report)
    finally:
        await checkup.close()
    passed = any(report.outcome == "passed" for report in reports) and not any(
        report.outcome == "failed" for report in reports
    )
    return Report(passed, reports, list(devices.inventory.problems))


def text_of(report: PairReport) -> str:
    """Some lines for people; pure."""
    lines = [
        f"{report.device} with {report.backend}: {report.outcome} in {report.seconds:.1f} s"
        f" ({report.version})"
    ]
    if report.outcome == "unsupported":
        lines = [f"{report.device} with {report.backend}: not used: {report.reason}"]
    lines += [
        f"  {check.outcome:8}{check.name:11}{check.seconds:6.2f} s  {check.detail}"
        for check in report.checks
    ]
    if report.outcome in ("failed", "untested"):
        lines += [f"  why     {report.reason}", f"  remedy  {report.remedy}"]
    if report.calibration is not None:
        lines += _calibration_lines(report)
    return "\n".join(lines) + "\n"


def write_text(report: PairReport) -> None:
    """To standard output, at once."""
    sys.stdout.write(text_of(report))
    sys.stdout.flush()


def write_json(report: Report) -> None:
    """To standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n")


def _calibration_lines(report: PairReport) -> list[str]:
    found = report.calibration
    if found is None:
        return []
    rates = ", ".join(f"{n}: {flops / 1e9:.1f}" for n, flops in found.matmul_flops.items())
    lines = [
        f"  {found.weights} weights read at {found.weights_bytes_per_second / 1e9:.1f} GB/s",
        f"  GFLOP/s by rows of a step, {found.threads} threads: {rates}",
    ]
    if not is_reliable(found):
        lines.append(
            f"  not to be relied on: others took {found.foreign_cpus:.1f} processors meanwhile"
        )
    for what, rate in (
        ("memory copied", found.copy_bytes_per_second),
        ("disk read", found.disk_bytes_per_second),
    ):
        if rate is not None:
            lines.append(f"  {what} at {rate / 1e9:.1f} GB/s")
    return lines
