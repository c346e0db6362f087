"""EngineLink: the engine's end of the socket to hearthd."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque

from hearthd import wire


class HearthdGone(Exception):
    """The other end has closed: nobody is left to work for."""


class EngineLink:
    """Whole frames over a stream socket; `send` may be called from any thread, `receive` from one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = wire.FrameBuffer()
        self._received: deque[wire.ToEngine] = deque()
        self._sending = threading.Lock()

    def send(self, frame: wire.Frame) -> None:
        """Send one frame; raises HearthdGone."""
        data = wire.encode(frame)
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError as error:
            raise HearthdGone(str(error)) from error

    def receive(self) -> wire.ToEngine:
        """Wait for the next frame; raises HearthdGone."""
        while not self._received:
            try:
                data = self._socket.recv(1 << 20)
            except OSError as error:
                raise HearthdGone(str(error)) from error
            if not data:
                raise HearthdGone("hearthd closed the socket")
            self._received += map(wire.to_engine_decoder.decode, self._buffer.feed(data))
        return self._received.popleft()

    def close(self) -> None:
        """Close the socket; wakes a `receive` in another thread."""
        with contextlib.suppress(OSError):  # not connected any more: closing is all that is left
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
