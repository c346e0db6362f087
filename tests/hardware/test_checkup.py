"""Devices tested in children: what fails is in quarantine, and what is known is not found out twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_machine import FakeMachine

from hearthd.hardware.checks import (
    Calibration,
    Check,
    Pair,
    PairReport,
    better,
    find,
    is_reliable,
    pairs_of,
    quarantine,
    with_last_bandwidth,
)
from hearthd.hardware.checkup import Checkup
from hearthd.hardware.device import Device
from hearthd.hardware.examination import examine_pair, measure_pair
from hearthd.hardware.inventory import Inventory
from hearthd.hardware.monitor import DeviceMonitor, MonitorOptions
from hearthd.hardware.profiles import FILE_NAME, Profiles

CARD = Device(
    name="cuda:0", identity="nvidia:GPU-1", kind="gpu", vendor="nvidia", description="Card",
    driver="nvidia 1", backends={"gguf": "vulkan:0"},
)  # fmt: skip
PAIR = Pair(CARD, "gguf", "nvidia 1, llama 2")
GOOD = {"selftest": {"passed": True, "checks": [], "copy_bytes_per_second": 8e9}}
FAST = {
    "calibrate": {
        "threads": 2, "weights": "Q8_0", "layer_bytes": 10, "layer_seconds": {"1": 0.1},
        "matmul_flops": {"1": 5e9}, "weights_bytes_per_second": 1e9,
    }
}  # fmt: skip


def failed(name: str, detail: str) -> dict[str, Any]:
    check = {"name": name, "outcome": "failed", "detail": detail, "seconds": 0.1}
    return {"selftest": {"passed": False, "checks": [check]}}


def saying(report: object) -> Callable[[str, Pair, int], list[str]]:
    """Children that print this."""
    script = f"print({json.dumps(report)!r})"
    return lambda word, pair, threads: [sys.executable, "-c", script]


def ending(script: str) -> Callable[[str, Pair, int], list[str]]:
    return lambda word, pair, threads: [sys.executable, "-c", script]


def report(**fields: Any) -> PairReport:
    base = PairReport(
        device="cuda:0", identity="nvidia:GPU-1", backend="gguf", backend_device="vulkan:0",
        version=PAIR.version, outcome="passed",
    )  # fmt: skip
    return msgspec.structs.replace(base, **fields)


# --- decisions ---------------------------------------------------------------------------------


def test_pairs_are_of_devices_that_are_ready() -> None:
    silent = msgspec.structs.replace(CARD, name="cuda:1", state="silent")
    assert pairs_of(Inventory((CARD, silent)), {"gguf": "llama 2"}) == [PAIR]


def test_what_failed_is_in_quarantine_in_the_backends_words() -> None:
    bad = report(outcome="failed", reason="wrong", remedy="mend it")
    inventory, versions = Inventory((CARD,)), {"gguf": "llama 2"}
    held = {"gguf vulkan:0": "wrong; mend it"}
    assert quarantine([bad], inventory, versions) == held
    assert quarantine([bad], inventory, {}) == held  # as long as nobody knows better
    assert quarantine([bad], inventory, {"gguf": "llama 3"}) == {}
    newer = msgspec.structs.replace(CARD, driver="nvidia 2")
    assert quarantine([bad], Inventory((newer,)), versions) == {}
    for outcome in ("passed", "unsupported", "untested"):
        assert quarantine([report(outcome=outcome)], inventory, versions) == {}


@pytest.mark.parametrize(("now", "outcome"), [(3e9, "warned"), (5e9, "passed"), (None, "passed")])
def test_memory_that_got_slow_is_a_warning(now: float | None, outcome: str) -> None:
    checks = [Check("bandwidth", "passed", "", 0.0)]
    last = report(copy_bytes_per_second=8e9)
    (check,) = with_last_bandwidth(report(checks=checks, copy_bytes_per_second=now), last).checks
    assert check.outcome == outcome


# --- children ----------------------------------------------------------------------------------


async def test_a_pair_that_passes() -> None:
    found = await examine_pair(PAIR, 1, command=saying(GOOD))
    assert (found.outcome, found.backend_device, found.version) == (
        "passed", "vulkan:0", "nvidia 1, llama 2",
    )  # fmt: skip
    assert found.copy_bytes_per_second == 8e9


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (saying(failed("twice", "other numbers")), "twice: other numbers"),
        (
            saying({"error": "no", "error_code": "step_error"}),
            "could not be loaded or computed: no",
        ),
        (ending("import os; os.kill(os.getpid(), 11)"), r"signal 11 \(SIGSEGV\)"),
        (ending("raise SystemExit(3)"), "status 3"),
        (ending("import time; time.sleep(60)"), "not done within 1 s"),
        (lambda word, pair, threads: ["/nothing/here"], "could not be started"),
    ],
    ids=["check", "error", "crash", "no word", "hang", "no program"],
)
async def test_a_pair_that_fails(command: Any, reason: str) -> None:
    found = await examine_pair(PAIR, 1, command=command, limit_seconds=1)
    assert found.outcome == "failed"
    assert re.search(reason, found.reason or "")
    assert "update its driver (nvidia 1)" in (found.remedy or "")


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"unsupported": "it runs on the CPU"}, "unsupported"),
        ({"error": "no memory", "error_code": "out_of_memory"}, "untested"),
    ],
)
async def test_a_pair_that_is_not_to_blame(said: dict[str, str], outcome: str) -> None:
    assert (await examine_pair(PAIR, 1, command=saying(said))).outcome == outcome


async def test_memory_has_a_remedy_of_its_own() -> None:
    found = await examine_pair(PAIR, 1, command=saying(failed("memory", "3 words")))
    assert "replace what is broken" in (found.remedy or "")


async def test_a_measurement_or_none() -> None:
    found = await measure_pair(PAIR, 1, None, command=saying(FAST))
    assert found is not None
    assert found.matmul_flops == {1: 5e9}
    assert await measure_pair(PAIR, 1, None, command=ending("raise SystemExit(1)")) is None


# --- kept over restarts ------------------------------------------------------------------------


async def test_reports_survive(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path)
    assert await profiles.load() == []
    assert not (tmp_path / FILE_NAME).exists()
    first = report(
        unix_seconds=1.0, calibration=msgspec.convert(FAST["calibrate"], Calibration, strict=False)
    )
    await profiles.save(first)
    await profiles.save(report(version="other", unix_seconds=2.0))
    await profiles.save(msgspec.structs.replace(first, seconds=7.0))
    await profiles.close()
    again = Profiles(tmp_path)
    found = await again.load()
    await again.close()
    assert [(r.version, r.seconds) for r in found] == [("other", 0.0), (PAIR.version, 7.0)]
    assert found[1].calibration == first.calibration


async def test_what_others_save_is_heard_of(tmp_path: Path) -> None:
    mine, other = Profiles(tmp_path), Profiles(tmp_path)
    assert await mine.load_changed() is None
    await other.save(report())
    assert await mine.load_changed() == [report()]
    assert await mine.load_changed() is None
    await other.save(report(version="2"))
    assert len(await mine.load_changed() or []) == 2
    await mine.close()
    await other.close()


# --- the whole ---------------------------------------------------------------------------------

PROBE = {
    "backends": {"one": [{"name": "cpu:0", "kind": "cpu", "description": "x"}]},
    "versions": {"one": "1.0"},
    "absent": {},
}


@contextlib.asynccontextmanager
async def monitored(machine: FakeMachine) -> AsyncIterator[DeviceMonitor]:
    """A machine with one processor and one backend."""
    probe = [sys.executable, "-c", f"print({json.dumps(PROBE)!r})"]
    options = MonitorOptions(machine.root, probe=probe)
    monitor = await asyncio.to_thread(DeviceMonitor, options)
    async with monitor.running():
        await monitor.until_backends_known()
        yield monitor


class Children:
    """Children that note what was asked of them."""

    def __init__(self, folder: Path, test: object = GOOD) -> None:
        self._log = folder / "asked"
        self._says = {"selftest": test, "calibrate": FAST}
        self.seconds = 0.0

    @property
    def asked(self) -> list[str]:
        return self._log.read_text().split() if self._log.exists() else []

    def command(self, word: str, pair: Pair, threads: int) -> list[str]:
        script = (
            f"import time; open({str(self._log)!r}, 'a').write('{word} '); "
            f"time.sleep({self.seconds}); print({json.dumps(self._says[word])!r})"
        )
        return [sys.executable, "-c", script]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def found_out(checkup: Checkup) -> Checkup:
    """A checkup that was let go on until all was known, and a moment longer."""
    await checkup.open()
    task = asyncio.create_task(checkup.keep_going(lambda: True, quiet_seconds=0.0))
    await until(lambda: any(report.calibration for report in checkup.reports))
    await asyncio.sleep(0.2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await checkup.close()
    return checkup


async def test_what_is_not_known_is_found_out_once(machine: FakeMachine, tmp_path: Path) -> None:
    children = Children(tmp_path)
    async with monitored(machine) as monitor:
        first = await found_out(
            Checkup(monitor, tmp_path, command=children.command, look_seconds=0.1)
        )
        again = await found_out(
            Checkup(monitor, tmp_path, command=children.command, look_seconds=0.1)
        )
        (pair,) = again.pairs()
    assert find(pair, list(first.reports)) == find(pair, list(again.reports))
    assert children.asked == ["selftest", "calibrate"]


def n_saved(folder: Path) -> int:
    """Reports in the file; 0 also while it is made."""
    try:
        with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection:
            (n,) = connection.execute("SELECT count(*) FROM reports").fetchone()
            return int(n)
    except sqlite3.OperationalError:
        return 0


async def test_a_failure_is_remembered_and_not_measured(
    machine: FakeMachine, tmp_path: Path
) -> None:
    children = Children(tmp_path, failed("answers", "it says 5"))
    async with monitored(machine) as monitor:
        checkup = Checkup(monitor, tmp_path, command=children.command, look_seconds=0.1)
        task = asyncio.create_task(checkup.keep_going(lambda: True, quiet_seconds=0.0))
        await until(lambda: bool(checkup.reports))
        await until(lambda: n_saved(tmp_path) == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await checkup.close()
        again = Checkup(monitor, tmp_path)
        await again.open()
        (reason,) = again.quarantined().values()
        await again.close()
    assert reason.startswith("answers: it says 5; take back overclocking")
    assert list(again.quarantined()) == ["one cpu:0"]
    assert children.asked == ["selftest"]


async def test_work_that_arrives_ends_a_test_and_it_is_begun_again(
    machine: FakeMachine, tmp_path: Path
) -> None:
    children = Children(tmp_path)
    children.seconds = 60.0
    idle = True
    async with monitored(machine) as monitor:
        checkup = Checkup(monitor, tmp_path, command=children.command, look_seconds=0.1)
        task = asyncio.create_task(checkup.keep_going(lambda: idle, quiet_seconds=0.0))
        await until(lambda: children.asked == ["selftest"])
        idle = False
        await asyncio.sleep(1.2)
        assert checkup.reports == ()
        children.seconds = 0.0
        idle = True
        await until(lambda: any(r.calibration for r in checkup.reports))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await checkup.close()
    assert children.asked == ["selftest", "selftest", "calibrate"]


def calibration(foreign_cpus: float, threads: int = 1) -> Calibration:
    return Calibration(threads, "Q8_0", 1, {}, {}, 1.0, foreign_cpus)


def test_a_measurement_that_others_disturbed_gives_way_to_a_better_one() -> None:
    quiet, newer, noisy, noisier = (calibration(n) for n in (0.0, 0.1, 1.0, 2.0))
    assert better(noisy, None) is noisy
    assert better(newer, quiet) is newer
    assert better(noisy, quiet) is quiet
    assert better(noisier, noisy) is noisy
    assert [is_reliable(c) for c in (None, quiet, noisy)] == [False, True, False]
