"""Middleware: each request belongs to somebody; each answer has a request id and is counted; each error has one shape."""

from __future__ import annotations

import asyncio
import re
import secrets

from aiohttp import web
from aiohttp.typedefs import Handler

from hearthd import __version__, log
from hearthd.api.access import admit, record
from hearthd.api.authentication import PRINCIPAL
from hearthd.api.compression import compressed
from hearthd.api.envelope import REQUEST_ID, error_response
from hearthd.api.keys import METRICS, SERVING
from hearthd.api.rate_headers import rate_headers

_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
SERVER = f"hearthd/{__version__}"
UNMATCHED = "unmatched"
_BEGUN = web.RequestKey("begun", bool)
_CLIENT_GONE = 499  # nobody reads it; it is for the metrics


def request_id_of(header: str | None) -> str:
    """The client's request id where it is short and printable, or a new one."""
    if header is not None and _SANE_ID.fullmatch(header):
        return header
    return f"req-{secrets.token_hex(12)}"


async def name_answer(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Put request id and limits on every answer before its headers go out; a signal: streams have them too."""
    request[_BEGUN] = True
    response.headers["X-Request-Id"] = request.get(REQUEST_ID, "")
    response.headers["Server"] = SERVER
    principal = request.get(PRINCIPAL)
    if principal is not None and principal.has_limits and isinstance(request, web.Request):
        response.headers.update(rate_headers(request.app[SERVING].standing(principal)))


@web.middleware
async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, count its answer, and turn errors into the envelope."""
    request_id = request_id_of(request.headers.get("X-Request-Id"))
    request[REQUEST_ID] = request_id
    log.request_id.set(request_id)
    status = _CLIENT_GONE
    try:
        response = await compressed(request, await _answer(request, handler))
        status = response.status
    finally:
        record(request, status)
        request.app[METRICS].count_http(_route_of(request), _method_of(request), status)
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        async with admit(request):
            return await handler(request)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # every request is answered, whatever failed
        if _BEGUN in request:  # no second answer: the client sees that the first one breaks off
            raise ConnectionResetError(f"an answer broke off: {error}") from error
        return error_response(error, request)


def _route_of(request: web.Request) -> str:
    """The pattern of the route table: a client cannot make up labels."""
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical


def _method_of(request: web.Request) -> str:
    known = request.method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    return request.method if known else "other"
