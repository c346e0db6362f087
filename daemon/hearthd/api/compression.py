"""Compression: bodies and events in a coding that the client takes; each event can be read as it arrives."""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias

import brotli
from aiohttp import web

from hearthd.api.caller import is_local
from hearthd.api.keys import OPTIONS

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Coding: TypeAlias = Literal["zstd", "br", "gzip"]

_LEAST_BYTES: Final = 1024  # of a body: a smaller one hardly gets smaller
_AT_ONCE_BYTES: Final = 64 * 1024  # a larger body is packed in a thread
_GZIP_WBITS: Final = 31
_Q: Final = ("q", "Q")


class Packer(Protocol):
    """Packs one answer, piece by piece."""

    def pack(self, data: bytes) -> bytes:
        """A piece, from which all of it can be unpacked."""

    def finish(self) -> bytes:
        """What ends the answer."""


def coding_for(request: web.Request) -> Coding | None:
    """How to pack the answer to a request; None: not at all. On the machine itself it would only cost time."""
    if is_local(request) and not request.app[OPTIONS].compress_local:
        return None
    return choose(request.headers.get("Accept-Encoding"))


def choose(accept: str | None) -> Coding | None:
    """The coding with the greatest weight in an Accept-Encoding header, of equal ones the best. Pure."""
    if not accept:
        return None
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights[name] = _weight(parameters)
    best: Coding | None = None
    for coding in _PACKERS:
        weight = weights.get(coding, weights.get("*", 0.0))
        if weight > 0 and (best is None or weight > weights.get(best, weights.get("*", 0.0))):
            best = coding
    return best


def packer(coding: Coding) -> Packer:
    """A new packer."""
    return _PACKERS[coding]()


async def compressed(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """A whole answer, packed where that is wanted and worth it; streams pack themselves."""
    if not isinstance(response, web.Response) or response.prepared:
        return response
    body = response.body
    if not isinstance(body, bytes) or len(body) < _LEAST_BYTES:
        return response
    coding = coding_for(request)
    if coding is None or "Content-Encoding" in response.headers:
        return response
    if len(body) > _AT_ONCE_BYTES:
        response.body = await asyncio.to_thread(_packed, coding, body)
    else:
        response.body = _packed(coding, body)
    response.headers["Content-Encoding"] = coding
    response.headers["Vary"] = "Accept-Encoding"
    return response


def _packed(coding: Coding, body: bytes) -> bytes:
    whole = packer(coding)
    return whole.pack(body) + whole.finish()


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() in _Q:
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


class _Zstd:
    def __init__(self) -> None:
        self._packer = zstd.ZstdCompressor(level=3)

    def pack(self, data: bytes) -> bytes:
        return self._packer.compress(data, mode=zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._packer.flush(mode=zstd.ZstdCompressor.FLUSH_FRAME)


class _Brotli:
    def __init__(self) -> None:
        self._packer = brotli.Compressor(quality=4)

    def pack(self, data: bytes) -> bytes:
        return bytes(self._packer.process(data) + self._packer.flush())

    def finish(self) -> bytes:
        return bytes(self._packer.finish())


class _Gzip:
    def __init__(self) -> None:
        self._packer = zlib.compressobj(level=4, wbits=_GZIP_WBITS)

    def pack(self, data: bytes) -> bytes:
        return self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._packer.flush()


_PACKERS: Final[dict[Coding, Callable[[], Packer]]] = {
    "zstd": _Zstd,
    "br": _Brotli,
    "gzip": _Gzip,
}
"""The best first."""
