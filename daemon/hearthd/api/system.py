"""The daemon about itself: alive, ready, metrics, version."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from aiohttp import web

from hearthd import __version__
from hearthd.api.keys import METRICS, SERVING
from hearthd.api.response import json_response
from hearthd.telemetry.metrics import CONTENT_TYPE


class Alive(msgspec.Struct, frozen=True):
    """The event loop turns."""

    status: Literal["ok"] = "ok"


class ModelReadiness(msgspec.Struct, frozen=True):
    """Whether one model answers, and how far it is."""

    name: str
    state: str
    phase: str | None
    progress: float | None
    answers: bool
    error: str | None


class Ready(msgspec.Struct, frozen=True):
    """Whether requests are answered."""

    ready: bool
    draining: bool
    models: list[ModelReadiness]


class Version(msgspec.Struct, frozen=True):
    """Of the program."""

    version: str


async def livez(_request: web.Request) -> web.Response:
    """200 as long as the process can answer at all."""
    return json_response(Alive())


async def readyz(request: web.Request) -> web.Response:
    """200 when requests are answered, 503 otherwise; either way with the state of each model."""
    for _ in range(2):  # what engines have said by now is read before they are judged
        await asyncio.sleep(0)
    readiness = request.app[SERVING].readiness()
    models = [
        ModelReadiness(
            status.name,
            status.state,
            status.phase,
            status.progress,
            status.answers,
            status.error,
        )
        for status in readiness.models
    ]
    return json_response(
        Ready(readiness.ready, readiness.draining, models), status=200 if readiness.ready else 503
    )


async def metrics(request: web.Request) -> web.Response:
    """What Prometheus scrapes."""
    return web.Response(body=request.app[METRICS].render(), headers={"Content-Type": CONTENT_TYPE})


async def version(_request: web.Request) -> web.Response:
    """The version of hearthd."""
    return json_response(Version(__version__))
