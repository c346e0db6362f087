"""Record: one line of a batch's output or errors; its id says which line of the input it answers."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from hearthd.batch.batch import Fault
from hearthd.batch.usage import Usage, usage_in


class Response(msgspec.Struct, frozen=True):
    """What the request was answered."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class Record(msgspec.Struct, frozen=True):
    """OpenAI's shape: an answer of the API, or why there is none."""

    id: str
    custom_id: str | None
    response: Response | None
    error: Fault | None

    @property
    def is_good(self) -> bool:
        """Whether it belongs into the output rather than the errors."""
        return self.response is not None and is_good(self.response.status_code)

    @property
    def usage(self) -> Usage:
        """Tokens that it took."""
        return Usage() if self.response is None else usage_in(self.response.body)


@dataclass(frozen=True, slots=True)
class Mark:
    """What is read of a record that was kept."""

    number: int  # of the input's line
    usage: Usage


class _Kept(msgspec.Struct):
    id: str
    response: Response | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Kept)
_raw = msgspec.json.Decoder(msgspec.Raw)


def is_good(status: int) -> bool:
    """Whether an HTTP status is an answer."""
    return HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES


def answered(
    prefix: str, number: int, custom_id: str, status: int, request_id: str, body: bytes
) -> Record:
    """The record of an answer; a body that is no JSON becomes a text. Pure."""
    try:
        _raw.decode(body)
    except msgspec.MsgspecError:
        body = _encoder.encode(body.decode(errors="replace"))
    response = Response(status, request_id, msgspec.Raw(body))
    return Record(f"{prefix}{number}", custom_id, response, None)


def unanswered(prefix: str, number: int, custom_id: str | None, fault: Fault) -> Record:
    """The record of a line that was never asked, or came to no answer. Pure."""
    return Record(f"{prefix}{number}", custom_id, None, fault)


def encode(record: Record) -> bytes:
    """A line with its end; JSON as it comes from the API has no line ends inside. Pure."""
    return _encoder.encode(record).replace(b"\n", b" ") + b"\n"


def mark_of(data: bytes, prefix: str) -> Mark | None:
    """What a line of a file says; None where it is no whole record of this batch. Pure."""
    if not data.endswith(b"\n"):
        return None
    try:
        kept = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    number = kept.id.removeprefix(prefix)
    if not kept.id.startswith(prefix) or not (number.isascii() and number.isdecimal()):
        return None
    usage = Usage() if kept.response is None else usage_in(kept.response.body)
    return Mark(int(number), usage)
