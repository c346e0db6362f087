"""What operators do: to models, and to requests under way."""

from __future__ import annotations

from typing import Final, cast, get_args

import msgspec
from aiohttp import web

from hearthd.api.access import describe
from hearthd.api.keys import SERVING
from hearthd.api.numbers import seconds_of, whole_number
from hearthd.api.response import json_response
from hearthd.errors import NotFound
from hearthd.serving.operations import Operation

_DRAIN_SECONDS: Final = "30"
_MOST_DRAIN_SECONDS: Final = 86_400.0


class Operated(msgspec.Struct, frozen=True):
    """How a model is once something was done to it; what takes time has begun."""

    name: str
    state: str
    pinned: bool


class Cancelled(msgspec.Struct, frozen=True):
    """A request that was ended."""

    number: int


async def operate(request: web.Request) -> web.Response:
    """POST /api/v1/models/{name}/{operation}; 202: what takes time has begun."""
    name, operation = request.match_info["name"], request.match_info["operation"]
    describe(request, f"{operation} {name}")
    if operation not in get_args(Operation):
        raise NotFound(f"there is no operation {operation!r}: {', '.join(get_args(Operation))}")
    drain_seconds = seconds_of(
        request.query.get("drain_seconds", _DRAIN_SECONDS), "drain_seconds", _MOST_DRAIN_SECONDS
    )
    status = request.app[SERVING].operate(name, cast(Operation, operation), drain_seconds)
    return json_response(Operated(status.name, status.state, status.pinned), status=202)


async def cancel_request(request: web.Request) -> web.Response:
    """DELETE /api/v1/requests/{number}"""
    number = whole_number(request.match_info["number"], "number")
    describe(request, str(number))
    if not request.app[SERVING].cancel(number):
        raise NotFound(f"no request {number} is under way")
    return json_response(Cancelled(number))
