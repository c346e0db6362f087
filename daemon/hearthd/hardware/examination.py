"""Examination: one device with one backend, tested or measured in a child process with a limit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import msgspec

from hearthd.hardware.checks import Calibration, Pair, PairReport, SelfTest, remedy

TEST_SECONDS = 60.0
CALIBRATION_SECONDS = 120.0
KILL_SECONDS = 1.0

Command: TypeAlias = Callable[[str, Pair, int], list[str]]
"""argv of the child for a word, a pair and a number of threads."""


class _Answer(msgspec.Struct, frozen=True):
    """What a child prints; one of these."""

    selftest: SelfTest | None = None
    calibrate: Calibration | None = None
    unsupported: str | None = None
    error: str | None = None
    error_code: str | None = None


class ChildEnded(Exception):
    """The child gave no answer; the message says how it ended."""


def child_command(word: str, pair: Pair, threads: int) -> list[str]:
    """argv of the child."""
    command = [sys.executable, "-P", "-m", "hearthd.engine", f"--{word}"]
    return [*command, pair.backend, pair.backend_device, "--threads", str(threads)]


async def examine_pair(
    pair: Pair,
    threads: int,
    *,
    cpus: frozenset[int] | None = None,
    command: Command = child_command,
    limit_seconds: float = TEST_SECONDS,
) -> PairReport:
    """Whether it computes rightly, on these processors only. Cancelling kills the child."""
    began = time.monotonic()
    try:
        answer = await _ask(command("selftest", pair, threads), limit_seconds, cpus)
    except ChildEnded as error:
        report = _report(pair, began)
        return msgspec.structs.replace(
            report, outcome="failed", reason=str(error), remedy=remedy(pair.device, "load")
        )
    return _judged(pair, answer, _report(pair, began))


async def measure_pair(
    pair: Pair,
    threads: int,
    folder: Path | None,
    *,
    cpus: frozenset[int] | None = None,
    command: Command = child_command,
    limit_seconds: float = CALIBRATION_SECONDS,
) -> Calibration | None:
    """How fast it is; None where it could not be measured. Cancelling kills the child."""
    where = [] if folder is None else ["--folder", str(folder)]
    try:
        answer = await _ask([*command("calibrate", pair, threads), *where], limit_seconds, cpus)
    except ChildEnded:
        return None
    return answer.calibrate


def _judged(pair: Pair, answer: _Answer, report: PairReport) -> PairReport:
    """The report with what the child says; pure."""
    replace = msgspec.structs.replace
    if answer.unsupported is not None:
        return replace(report, outcome="unsupported", reason=answer.unsupported)
    if answer.selftest is None:
        outcome = "untested" if answer.error_code == "out_of_memory" else "failed"
        reason = f"the canary could not be loaded or computed: {answer.error}"
        return replace(report, outcome=outcome, reason=reason, remedy=remedy(pair.device, "load"))
    found = answer.selftest
    report = replace(report, checks=found.checks, copy_bytes_per_second=found.copy_bytes_per_second)
    failed = next((check for check in found.checks if check.outcome == "failed"), None)
    if failed is None:
        return report
    return replace(
        report,
        outcome="failed",
        reason=f"{failed.name}: {failed.detail}",
        remedy=remedy(pair.device, failed.name),
    )


def _report(pair: Pair, began: float) -> PairReport:
    return PairReport(
        device=pair.device.name,
        identity=pair.device.identity,
        backend=pair.backend,
        backend_device=pair.backend_device,
        version=pair.version,
        outcome="passed",
        seconds=time.monotonic() - began,
        unix_seconds=time.time(),
    )


async def _ask(command: list[str], limit_seconds: float, cpus: frozenset[int] | None) -> _Answer:
    """What a child prints; raises ChildEnded."""
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, process_group=0
        )
    except OSError as error:
        raise ChildEnded(f"its test could not be started: {error}") from error
    try:
        if cpus is not None:
            os.sched_setaffinity(child.pid, cpus)
        async with asyncio.timeout(limit_seconds):
            output, _ = await child.communicate()
    except ProcessLookupError:
        raise ChildEnded("its test ended before it began") from None
    except TimeoutError:
        raise ChildEnded(f"its test was not done within {limit_seconds:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await asyncio.wait({asyncio.create_task(child.wait())}, timeout=KILL_SECONDS)
    try:
        return msgspec.json.decode(output, type=_Answer)
    except msgspec.MsgspecError:
        raise ChildEnded(f"its test ended with {_status(child.returncode)}") from None


def _status(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"signal {-code} ({signal.Signals(-code).name})"
        except ValueError:
            return f"signal {-code}"
    return f"status {code} and no report"
