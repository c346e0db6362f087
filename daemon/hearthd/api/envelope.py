"""The envelope: every error leaves in OpenAI's shape, as a body or as an event of a stream."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus

import msgspec
from aiohttp import web

from hearthd.api.response import json_response
from hearthd.errors import BodyTooLarge, HearthError, InvalidRequest, MethodNotAllowed, NotFound

log = logging.getLogger(__name__)

REQUEST_ID = web.RequestKey("request_id", str)

_LATER_SECONDS = 1.0  # for errors that pass and say nothing of when
_PASSING = frozenset({"queue_full", "model_loading", "shutting_down"})


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong, for people (`message`) and programs (`type`, `param`, `code`)."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """The body of every answer that is an error."""

    error: ErrorBody


def envelope(error: HearthError) -> ErrorEnvelope:
    """The canonical body of an error."""
    return ErrorEnvelope(ErrorBody(error.message, error.type, error.param, error.code))


def error_response(error: Exception, request: web.Request) -> web.Response:
    """An error as a whole answer, with Retry-After where it passes by itself."""
    headers = {}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = error.headers["Allow"]
    error = as_hearth_error(error, request)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    seconds = error.retry_after_seconds
    if seconds is None and error.code in _PASSING:
        seconds = _LATER_SECONDS
    if seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    return json_response(envelope(error), status=error.status, headers=headers)


def as_hearth_error(error: Exception, request: web.Request) -> HearthError:
    """Any exception as one of ours; what nobody foresaw is logged, and the client gets its number."""
    if isinstance(error, HearthError):
        return error
    if isinstance(error, web.HTTPException):
        return _of_http(error, request)
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    request_id = request.get(REQUEST_ID, "")
    return HearthError(f"Something failed inside hearthd; its log has more under {request_id}")


def _of_http(error: web.HTTPException, request: web.Request) -> HearthError:
    """What aiohttp itself refuses: an address, a method, a size, a broken body."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(
            f"{request.path} does not take {request.method}; it takes {allowed}"
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge(
            f"The request's body is over the limit of {request.client_max_size} bytes"
        )
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"There is nothing at {request.path}")
    if 400 <= error.status < 500:
        return InvalidRequest(f"{HTTPStatus(error.status).phrase}: {error.text or error.reason}")
    return HearthError(f"{error.status} {error.reason}")
