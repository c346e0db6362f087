"""The box as clients find it: its version, whether it wants keys, and the certificate to know it by."""

from __future__ import annotations

import msgspec
from aiohttp import web

from hearthd import __version__
from hearthd.access.certificate import CertificateFacts
from hearthd.api.keys import KEYRING, OPTIONS, TLS
from hearthd.api.response import json_response


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """What may be told to everybody who may ask, and on the network around."""

    version: str
    keys: int  # that count
    key_required: bool  # of requests from other machines
    tls: CertificateFacts | None  # None: TLS is off


async def show_box(request: web.Request) -> web.Response:
    """GET /api/v1/box"""
    return json_response(describe_box(request.app))


def describe_box(app: web.Application) -> Box:
    """How the box is to be spoken to now."""
    return Box(
        version=__version__,
        keys=len(app[KEYRING]),
        key_required=not app[OPTIONS].insecure,
        tls=app[TLS].facts,
    )
