"""Whole answers in JSON."""

from __future__ import annotations

import msgspec
from aiohttp import web

_encoder = msgspec.json.Encoder()


def json_response(
    body: msgspec.Struct, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """A struct as an answer."""
    return json_body_response(json_bytes(body), status=status, headers=headers)


def json_bytes(body: msgspec.Struct) -> bytes:
    """A struct as JSON. Pure."""
    return _encoder.encode(body)


def json_body_response(
    body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """JSON as an answer."""
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
