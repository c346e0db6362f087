"""Ctrl-C while HTTP is under way: the connection is cut, and KeyboardInterrupt is raised where it can do no harm.

Python raises KeyboardInterrupt between any two instructions of the main thread. Within httpx one of those
would lose a response that nobody could close any more, or leave the lock of its connections taken for ever.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Holds Ctrl-C back within `held`; a second one is not held back."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()  # httpcore's, of open connections
        self._is_held = False
        self._is_connecting = False
        self._came = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C comes here; in other threads than the main one, and where somebody else has it, it does not."""
        in_main = threading.current_thread() is threading.main_thread()
        if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Code that may not be interrupted; raises KeyboardInterrupt at its end if Ctrl-C came meanwhile."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = self._is_connecting = False
            if self._came:
                self._came = False
                raise KeyboardInterrupt

    def on_event(self, name: str, info: Mapping[str, Any]) -> None:
        """What httpcore tells of a request: the callback for its `trace` extension."""
        if not name.startswith("connection."):
            return
        self._is_connecting = name.endswith(".started")
        if self._came and self._is_connecting:
            raise KeyboardInterrupt
        stream = info.get("return_value")
        if stream is not None:
            self._streams.add(stream)
            if self._came:
                self._cut()

    def cut(self) -> None:
        """End what waits for the box; from any thread."""
        self._cut()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Nothing is lost where a connection is made still, and waiting for that would take seconds."""
        if not self._is_held or self._is_connecting or self._came:
            raise KeyboardInterrupt
        self._came = True
        self._cut()

    def _cut(self) -> None:
        """End what waits for the box: reading from a connection that is shut down returns at once."""
        for stream in list(self._streams):
            connection = stream.get_extra_info("socket")
            if connection is not None:
                with contextlib.suppress(OSError):  # closed, or gone over to TLS
                    connection.shutdown(socket.SHUT_RDWR)
