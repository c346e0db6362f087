"""Patience of a test with a screen that Pilot drives."""

from __future__ import annotations

import time
from collections.abc import Callable

from screen_snapshot import screen_text
from textual.pilot import Pilot

PATIENCE_SECONDS = 20.0
LOOK_SECONDS = 0.005


async def until(pilot: Pilot[None], holds: Callable[[], bool]) -> None:
    """Wait for something that the screen is to show; fails with the screen where it never comes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"it never came:\n{screen_text(pilot.app)}"
        await pilot.pause(LOOK_SECONDS)
