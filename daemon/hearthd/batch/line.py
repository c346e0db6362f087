"""Line: one request of a batch's input, parsed; what is wrong with one is said of it alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from hearthd.batch.batch import Fault

MOST_ID_CHARS: Final = 512


@dataclass(frozen=True, slots=True)
class Line:
    """A request that can be asked."""

    number: int  # from 1, blank lines counted
    custom_id: str
    url: str
    body: bytes
    model: str  # as it is written; empty where there is none


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request, and why."""

    number: int
    custom_id: str | None  # where it has one of its own
    fault: Fault


Parsed: TypeAlias = Line | BadLine


class _Envelope(msgspec.Struct):
    custom_id: Any = None
    method: Any = None
    url: Any = None
    body: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    model: Any = None
    stream: Any = None


_envelope = msgspec.json.Decoder(_Envelope)
_body = msgspec.json.Decoder(_Body)


def parse_line(data: bytes, number: int, endpoint: str) -> Parsed:
    """A line of a batch for one endpoint. Pure."""
    try:
        envelope = _envelope.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return bad_line(number, "invalid_json_line", f"it is no JSON object ({error})")
    custom_id = envelope.custom_id
    if custom_id is None:
        return bad_line(
            number, "missing_required_parameter", "custom_id is required", param="custom_id"
        )
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MOST_ID_CHARS:
        what = f"custom_id must be a text of 1 to {MOST_ID_CHARS} characters"
        return bad_line(number, "invalid_value", what, param="custom_id")
    fault = _fault(envelope, number, endpoint)
    if fault is not None:
        return BadLine(number, custom_id, fault)
    body = bytes(envelope.body)
    model = _body.decode(body).model
    return Line(number, custom_id, endpoint, body, model if isinstance(model, str) else "")


def bad_line(
    number: int,
    code: str,
    what: str,
    *,
    param: str | None = None,
    custom_id: str | None = None,
) -> BadLine:
    """A line with a fault of this code; `what` says it in words. Pure."""
    return BadLine(number, custom_id, _fault_of(number, code, what, param))


def _fault(envelope: _Envelope, number: int, endpoint: str) -> Fault | None:
    if envelope.method not in ("POST", None):
        return _fault_of(number, "invalid_method", "method must be POST", "method")
    if envelope.url != endpoint:
        what = f"url must be the batch's endpoint {endpoint}, not {str(envelope.url)[:64]!r}"
        return _fault_of(number, "invalid_url", what, "url")
    if bytes(envelope.body) in (b"", b"null"):
        return _fault_of(number, "missing_required_parameter", "body is required", "body")
    try:
        body = _body.decode(envelope.body)
    except (msgspec.MsgspecError, RecursionError):
        return _fault_of(number, "invalid_value", "body must be an object", "body")
    if body.stream:
        return _fault_of(number, "unsupported", "a batch has no streams", "body.stream")
    return None


def _fault_of(number: int, code: str, what: str, param: str | None) -> Fault:
    return Fault(code, f"line {number}: {what}", param, number)
