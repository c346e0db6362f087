"""The supervisor says that it makes progress, and the watchdog is fed only while it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_manager_end import ManagerEnd, until
from serving_rig import Start

from hearthd.config import ModelConfig
from hearthd.service_manager import ServiceManager
from hearthd.serving.process import EngineProcess
from hearthd.serving.progress import STALL_SECONDS, Progress
from hearthd.systemd import Notifier


@pytest.fixture
def manager_end(short_path: Path) -> Iterator[ManagerEnd]:
    with ManagerEnd(short_path) as end:
        yield end


async def test_a_supervisor_that_stands_still_starves_the_watchdog(
    manager_end: ManagerEnd, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keeper hangs in the middle of a look at a process, where nothing would ever wake it."""
    stuck = asyncio.Event()
    watch = EngineProcess._watch

    async def stuck_watch(self: EngineProcess, exited: asyncio.Task[int]) -> None:
        self._progress.step()
        await stuck.wait()
        await watch(self, exited)

    monkeypatch.setattr(EngineProcess, "_watch", stuck_watch)
    monkeypatch.setattr("hearthd.serving.progress.STALL_SECONDS", 0.5)
    rig = start({"m": ModelConfig(path="sim:")})
    notifier = Notifier({"NOTIFY_SOCKET": str(manager_end.path), "WATCHDOG_USEC": "200000"})
    serving = rig.serving
    async with ServiceManager(notifier, serving.models, serving.stalled) as manager:
        manager.ready()
        await until(lambda: manager_end.count(WATCHDOG="1") >= 2)
        await until(lambda: serving.stalled(time.monotonic()) == ["m"])
        await asyncio.sleep(0.1)  # for a feed that was under way
        n_fed = manager_end.count(WATCHDOG="1")
        await asyncio.sleep(0.5)
        assert manager_end.count(WATCHDOG="1") == n_fed
        stuck.set()
        await until(lambda: manager_end.count(WATCHDOG="1") > n_fed)


async def test_the_supervisor_makes_progress_while_engines_serve(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:")})
    await rig.until_state("ready")
    progress = next(iter(rig.serving._supervisor._progress.values()))
    before = progress.n_steps
    await until(lambda: progress.n_steps >= before + 2)
    await rig.serving.stop()
    assert rig.serving.stalled(time.monotonic() + 1e6) == []  # nobody is to be looked after


def test_waiting_on_purpose_is_no_stall() -> None:
    progress = Progress()
    progress.step(wait_seconds=30.0)
    now = time.monotonic()
    assert not progress.is_stalled(now + 29.0 + STALL_SECONDS)
    assert progress.is_stalled(now + 31.0 + STALL_SECONDS)
