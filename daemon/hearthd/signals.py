"""Signals: what the daemon is told from outside, as events."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signals:
    """What came so far."""

    stop: asyncio.Event  # SIGTERM or SIGINT
    hurry: asyncio.Event  # another one of these
    reload: asyncio.Event  # SIGHUP, since it was last cleared


@contextmanager
def heard() -> Iterator[Signals]:
    """Hear signals as long as it lasts; needs a running loop."""
    signals = Signals(asyncio.Event(), asyncio.Event(), asyncio.Event())
    loop = asyncio.get_running_loop()

    def on_stop() -> None:
        (signals.hurry if signals.stop.is_set() else signals.stop).set()

    hearers = {
        signal.SIGTERM: on_stop,
        signal.SIGINT: on_stop,
        signal.SIGHUP: signals.reload.set,
    }
    for number, hear in hearers.items():
        loop.add_signal_handler(number, hear)
    try:
        yield signals
    finally:
        for number in hearers:
            loop.remove_signal_handler(number)
