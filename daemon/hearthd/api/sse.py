"""EventStream: server-sent events of one answer; begins with the first event, not before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from hearthd.api.compression import coding_for, packer
from hearthd.api.envelope import envelope
from hearthd.errors import HearthError

DONE = b"data: [DONE]\n\n"
_COMMENT = b": still here\n\n"
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold the events back
}


_encoder = msgspec.json.Encoder()


def encoded(chunks: Iterable[msgspec.Struct]) -> bytes:
    """Each chunk as an event. Pure."""
    encode = _encoder.encode
    return b"".join([b"data: %b\n\n" % encode(chunk) for chunk in chunks])


class EventStream:
    """Writes events; while it is open and silent, a comment tells proxies that somebody is here.

    Until `started`, an error may still be answered with a status. Writing raises ConnectionResetError
    when the client has gone.
    """

    def __init__(self, request: web.Request, *, keep_alive_seconds: float) -> None:
        self.response = web.StreamResponse(headers=_HEADERS)
        coding = coding_for(request)
        self._packer = None if coding is None else packer(coding)
        if coding is not None:
            self.response.headers.update({"Content-Encoding": coding, "Vary": "Accept-Encoding"})
        self._request = request
        self._keep_alive_seconds = keep_alive_seconds
        self._lock = asyncio.Lock()  # a comment never cuts into an event
        self._written_seconds = 0.0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether the status line has gone out."""
        return self.response.prepared

    async def __aenter__(self) -> Self:
        self._written_seconds = asyncio.get_running_loop().time()
        self._keeper = asyncio.create_task(self._keep_alive())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._packer is not None and self.started and error is None:
            with suppress(ConnectionResetError):
                await self.response.write(self._packer.finish())

    async def send(self, chunks: Iterable[msgspec.Struct]) -> None:
        """Each chunk as an event, all in one write."""
        await self.send_encoded(encoded(chunks))

    async def send_encoded(self, data: bytes) -> None:
        """Events as they go over the wire, as many as there are, in one write."""
        if data:
            await self._write(data)

    async def done(self) -> None:
        """The end of a stream that went well."""
        await self._write(DONE)

    async def fail(self, error: HearthError) -> None:
        """The end of a stream that went wrong; the status has gone out, so an event says it."""
        await self.send([envelope(error)])

    async def _write(self, data: bytes) -> None:
        async with self._lock:
            if not self.started:
                await self.response.prepare(self._request)
            await self.response.write(data if self._packer is None else self._packer.pack(data))
            self._written_seconds = asyncio.get_running_loop().time()

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._written_seconds + self._keep_alive_seconds - loop.time())
            if loop.time() - self._written_seconds >= self._keep_alive_seconds:
                try:
                    await self._write(_COMMENT)
                except ConnectionResetError:
                    return  # aiohttp cancels the handler
