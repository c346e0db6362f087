"""Checkup: has every device tested and measured once for each version, and knows what is in quarantine."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec

from hearthd.hardware.checks import (
    Pair,
    PairReport,
    better,
    find,
    is_reliable,
    pairs_of,
    quarantine,
    with_last_bandwidth,
)
from hearthd.hardware.examination import Command, child_command, examine_pair, measure_pair
from hearthd.hardware.host import cpus_to_keep_to, threads_for
from hearthd.hardware.monitor import DeviceMonitor
from hearthd.hardware.profiles import Profiles
from hearthd.store.errors import StoreError

log = logging.getLogger(__name__)

QUIET_SECONDS = 30.0
"""Without work, before a device is tested unasked."""
LOOK_SECONDS = 5.0
"""Between two looks for something to find out."""
BUSY_SECONDS = 0.5
"""Between two looks for work that has arrived, which a test has to make way for."""
MOST_TRIES = 3
"""To find something out between two starts."""


class Checkup:
    """Owns the reports; tests one pair at a time."""

    def __init__(
        self,
        devices: DeviceMonitor,
        folder: Path,
        *,
        command: Command = child_command,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """`folder`: where reports are kept, and whose disk is measured."""
        self._devices = devices
        self._folder = folder
        self._command = command
        self._look_seconds = look_seconds
        self._profiles = Profiles(folder)
        self._reports: list[PairReport] = []

    @property
    def reports(self) -> tuple[PairReport, ...]:
        """The last of each pair and version."""
        return tuple(self._reports)

    def quarantined(self) -> dict[str, str]:
        """ "BACKEND DEVICE" that nothing may be put on, to the reason."""
        return quarantine(self._reports, self._devices.inventory, self._devices.backend_versions)

    def pairs(self) -> list[Pair]:
        """Every pair that could be tested now."""
        return pairs_of(self._devices.inventory, self._devices.backend_versions)

    async def open(self) -> None:
        """Read what was found out before; what cannot be read is found out again."""
        try:
            self._reports = await self._profiles.load()
        except StoreError as error:
            log.warning("reports of devices cannot be read: %s", error)
        for pair, reason in self.quarantined().items():
            log.warning("in quarantine: %s: %s", pair, reason)

    async def close(self) -> None:
        """Let go of the file."""
        await self._profiles.close()

    async def test(self, pair: Pair) -> PairReport:
        """Test a pair now, and keep the report."""
        report = await examine_pair(
            pair, self._threads(pair), cpus=self._cpus(pair), command=self._command
        )
        last = next(
            (
                r
                for r in self._reports
                if (r.identity, r.backend) == (report.identity, report.backend)
            ),
            None,
        )
        report = with_last_bandwidth(report, last)
        known = find(pair, self._reports)
        if known is not None:
            report = msgspec.structs.replace(report, calibration=known.calibration)
        await self._keep(report)
        level = logging.ERROR if report.outcome == "failed" else logging.INFO
        log.log(
            level,
            "device %s with %s: %s%s",
            pair.device.name,
            pair.backend,
            report.outcome,
            f": {report.reason}; {report.remedy}" if report.outcome == "failed" else "",
        )
        return report

    async def calibrate(self, pair: Pair, report: PairReport) -> PairReport:
        """Measure a pair now, and keep the report with it."""
        found = await measure_pair(
            pair, self._threads(pair), self._folder, cpus=self._cpus(pair), command=self._command
        )
        if found is not None:
            best = better(found, report.calibration)
            report = msgspec.structs.replace(report, calibration=best)
            await self._keep(report)
        return report

    async def keep_going(
        self, is_idle: Callable[[], bool], *, quiet_seconds: float = QUIET_SECONDS
    ) -> None:
        """Test and measure whatever is not known yet, whenever there is nothing else to do.

        Work that arrives ends a test under way; it is begun again later.
        """
        tries: Counter[tuple[str, str, str]] = Counter()
        while True:
            await self._hear_of_others()
            pair = next(
                (p for p in self.pairs() if self._wants(p) and tries[_key(p)] < MOST_TRIES), None
            )
            if pair is None or not await _stays_true(is_idle, quiet_seconds):
                await asyncio.sleep(self._look_seconds)
                continue
            if await _unless_busy(self._find_out(pair), is_idle):
                tries[_key(pair)] += 1

    async def _hear_of_others(self) -> None:
        """Take in what `hearth selftest` has found out meanwhile."""
        try:
            reports = await self._profiles.load_changed()
        except StoreError as error:
            log.warning("reports of devices cannot be read: %s", error)
            return
        if reports is not None:
            self._reports = reports

    def _wants(self, pair: Pair) -> bool:
        report = find(pair, self._reports)
        if report is None or report.outcome == "untested":
            return True
        return report.outcome == "passed" and not is_reliable(report.calibration)

    async def _find_out(self, pair: Pair) -> None:
        report = find(pair, self._reports)
        if report is None or report.outcome == "untested":
            report = await self.test(pair)
        if report.outcome == "passed":
            await self.calibrate(pair, report)

    def _threads(self, pair: Pair) -> int:
        return threads_for(self._devices.inventory.present, pair.device.name)

    def _cpus(self, pair: Pair) -> frozenset[int] | None:
        return cpus_to_keep_to(self._devices.inventory.present, pair.device.name)

    async def _keep(self, report: PairReport) -> None:
        key = (report.identity, report.backend, report.version)
        others = [r for r in self._reports if (r.identity, r.backend, r.version) != key]
        self._reports = [report, *others]
        try:
            await self._profiles.save(report)
        except StoreError as error:
            log.error("a report of %s cannot be kept: %s", report.device, error)


def _key(pair: Pair) -> tuple[str, str, str]:
    return pair.device.identity, pair.backend, pair.version


async def _stays_true(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether something is so now, and all the time until then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while condition():
        if loop.time() >= until:
            return True
        await asyncio.sleep(min(BUSY_SECONDS, seconds))
    return False


async def _unless_busy(work: Coroutine[None, None, None], is_idle: Callable[[], bool]) -> bool:
    """Do something, or drop it when there is something else to do; whether it was done."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=BUSY_SECONDS)
            if not is_idle():
                break
        done = task.done()
    finally:
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        log.error("a device could not be tested", exc_info=outcome)
    return done
