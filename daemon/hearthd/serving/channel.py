"""EngineChannel: hearthd's end of the socket to one engine; bytes to frames without a task between."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import msgspec

from hearthd import wire


class EngineChannel(asyncio.Protocol):
    """Calls `on_frame` for each frame in the loop's own callback; `on_close` once."""

    def __init__(
        self,
        on_frame: Callable[[wire.FromEngine], None],
        on_close: Callable[[str | None], None],
    ) -> None:
        self._on_frame = on_frame
        self._on_close = on_close
        self._buffer = wire.FrameBuffer()
        self._transport: asyncio.Transport | None = None
        self._fault: str | None = None

    @classmethod
    async def open(
        cls,
        connection: socket.socket,
        on_frame: Callable[[wire.FromEngine], None],
        on_close: Callable[[str | None], None],
    ) -> EngineChannel:
        """A channel over a connected socket, which it owns from now on."""
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(
            lambda: cls(on_frame, on_close), sock=connection
        )
        return channel

    def send(self, frame: wire.ToEngine) -> None:
        """Queue a frame; one for an engine that has closed is dropped, its end is on the way."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.encode(frame))

    def close(self) -> None:
        """Drop the connection and what is queued; idempotent."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._buffer.feed(data):
                self._on_frame(wire.from_engine_decoder.decode(body))
        except (ValueError, msgspec.MsgspecError) as error:
            self._fault = f"sent what is no frame: {error}"
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._on_close(self._fault)  # how the process ended says more than the socket's error
