"""`hearth top` and a real `hearthd`: what it shows is true, what it does is done, and it gets over a restart."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hearthd_process import Daemon
from pilot_patience import until
from textual.pilot import Pilot
from textual.widgets import Input

from hearth_tui.address import Address
from hearth_tui.client import Client
from hearth_tui.dialogs.confirm import Confirm
from hearth_tui.top.app import TopApp
from hearth_tui.top.source import Source
from hearth_tui.top.widgets.live_table import LiveTable

MODELS = ("--model", "m=sim:latency_ms=20", "--set", "hardware.checkup=false")
LONG = {"model": "m", "prompt": "x", "max_tokens": 3000, "ignore_eos": True, "temperature": 0.9}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: a socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hearth") as path:
        yield Path(path)


def rows(pilot: Pilot[None], name: str) -> list[str]:
    table = pilot.app.screen_stack[0].query_one(f"#{name}", LiveTable)
    return [" ".join(str(cell) for cell in table.get_row_at(i)) for i in range(table.row_count)]


def banner(pilot: Pilot[None]) -> str:
    return str(pilot.app._banner._text)  # type: ignore[attr-defined]  # the app is a TopApp


async def started(folder: Path) -> Daemon:
    daemon = await asyncio.to_thread(Daemon, folder, *MODELS)
    await asyncio.to_thread(daemon.until_ready)
    return daemon


async def confirmed(pilot: Pilot[None], key: str, word: str) -> None:
    await pilot.press(key)
    await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
    pilot.app.screen.query_one(Input).value = word
    await pilot.press("enter")
    await until(pilot, lambda: len(pilot.app.screen_stack) == 1)


# httpcore leaves a Unix socket that could not be connected to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.slow
async def test_watching_a_box_through_a_restart(folder: Path) -> None:
    daemon = await started(folder)
    with Client(Address("http://localhost", daemon.socket)) as box:
        app = TopApp(Source(box), read_seconds=0.1)
        try:
            async with app.run_test(size=(80, 24)) as pilot:
                await until(pilot, lambda: any("ready" in row for row in rows(pilot, "models")))
                await acted(pilot, daemon)
                await asyncio.to_thread(daemon.process.kill)
                await asyncio.to_thread(daemon.process.wait)
                await until(pilot, lambda: "reconnecting" in banner(pilot))
                assert app.query_one("#body").has_class("-old")
                assert rows(pilot, "models")  # what was read last
                daemon = await started(folder)
                await until(pilot, lambda: not app.query_one("#body").has_class("-old"))
                await until(pilot, lambda: any("ready" in row for row in rows(pilot, "models")))
        finally:
            await asyncio.to_thread(ended, daemon)
            gc.collect()


async def acted(pilot: Pilot[None], daemon: Daemon) -> None:
    """A request is seen and ended, a model unloaded and loaded again."""
    asking = asyncio.create_task(asyncio.to_thread(daemon.get, "/v1/completions", LONG))
    await until(pilot, lambda: len(rows(pilot, "requests")) == 1)
    number = rows(pilot, "requests")[0].split()[0]
    await pilot.press("tab")
    await confirmed(pilot, "c", number)
    status, body = await asking
    assert (status, body["error"]["code"]) == (503, "cancelled_by_operator")
    await confirmed(pilot, "u", "m")
    await until(pilot, lambda: any("unloaded" in row for row in rows(pilot, "models")))
    refused: tuple[int, Any] = await asyncio.to_thread(daemon.get, "/v1/completions", LONG)
    assert (refused[0], refused[1]["error"]["code"]) == (503, "model_unloaded")
    await confirmed(pilot, "l", "m")
    await until(pilot, lambda: any(" ready " in row for row in rows(pilot, "models")))


def ended(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait()
