"""Connection: what is no HTTP request, or one that no route ever sees, is answered in our shape too."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import http_exceptions, web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from hearthd.api.envelope import REQUEST_ID, envelope, error_response
from hearthd.api.middleware import SERVER, UNMATCHED, request_id_of
from hearthd.api.response import json_response
from hearthd.errors import HeadersTooLarge, HearthError, InvalidRequest
from hearthd.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""For a client to say what it wants of TLS."""


async def listen(
    runner: web.AppRunner,
    listener: socket.socket,
    metrics: Metrics,
    *,
    backlog: int = 128,
    tls: ssl.SSLContext | None = None,
) -> asyncio.Server:
    """Take connections from a bound socket, for the app of a runner that is set up.

    `tls` is spoken on TCP; who reaches a Unix socket is on this machine.
    """
    loop = asyncio.get_running_loop()
    make = acceptor(runner, metrics)
    context = None if listener.family == socket.AF_UNIX else tls
    return await loop.create_server(
        make,
        sock=listener,
        backlog=backlog,
        ssl=context,
        ssl_handshake_timeout=None if context is None else HANDSHAKE_SECONDS,
    )


def acceptor(runner: web.AppRunner, metrics: Metrics) -> Callable[[], Connection]:
    """Makes connections to the app of a runner that is set up."""
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    loop = asyncio.get_running_loop()
    return functools.partial(Connection, metrics, server, loop=loop, access_log=None)


class Connection(RequestHandler):
    """One client's connection; aiohttp would answer in plain text where this answers."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._metrics = metrics

    def data_received(self, data: bytes) -> None:
        """aiohttp does not tell whoever reads a body that the rest of it is broken: he would wait for ever."""
        super().data_received(data)
        request = self._current_request
        if request is None or not self._messages or request.content.is_eof():
            return
        if not isinstance(self._messages[-1][0], RawRequestMessage):
            self._messages.pop()  # no second answer to the same request
            request.content.set_exception(web.RequestPayloadError("a chunk of it is malformed"))
            request.content.feed_eof()
            self.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what cannot be read as a request; closes the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        error = error_below_routes(exc, message)
        log.log(
            logging.DEBUG if error.status < 500 else logging.ERROR,
            "a connection ends with %d: %s", error.status, error.message,
            exc_info=exc,
        )  # fmt: skip
        self._metrics.count_http(UNMATCHED, "other", error.status)
        response = json_response(envelope(error), status=error.status)
        response.headers["X-Request-Id"] = request[REQUEST_ID] = request_id_of(None)
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Refusals that aiohttp makes outside of all middleware, of an expectation for one."""
        if isinstance(resp, web.HTTPException) and isinstance(request, web.Request):
            request[REQUEST_ID] = request_id_of(request.headers.get("X-Request-Id"))
            resp = error_response(resp, request)
            resp.headers["X-Request-Id"] = request[REQUEST_ID]
        return await super().finish_response(request, resp, start_time)


def error_below_routes(error: BaseException | None, message: str | None) -> HearthError:
    """What was wrong with bytes that are no request. Pure."""
    if isinstance(error, http_exceptions.LineTooLong):
        return HeadersTooLarge("The request line, or one of the headers, is too long")
    if not isinstance(error, http_exceptions.HttpProcessingError):
        return HearthError("Something failed inside hearthd; its log has more")
    lines = (message or "").splitlines()
    what = lines[0].strip().rstrip(":") if lines else ""
    if not what.isprintable() or "b'" in what or not what:
        what = "it cannot be read"  # nobody's bytes are sent back
    return InvalidRequest(f"This is no HTTP request: {what}", code="malformed_request")
