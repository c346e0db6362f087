"""Upload: a form with one file, whose bytes go on as they come; small fields before or after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

from aiohttp import BodyPartReader, web

from hearthd.errors import InvalidRequest

T = TypeVar("T")

_PIECE_BYTES: Final = 256 * 1024
_MOST_FIELD_BYTES: Final = 4096
_MOST_FIELDS: Final = 16
_MOST_NAME_CHARS: Final = 255


async def read_form(
    request: web.Request,
    receive: Callable[[str, AsyncIterator[bytes]], Awaitable[T]],
    discard: Callable[[T], Awaitable[None]],
) -> tuple[dict[str, str], T]:
    """The fields, and what `receive` made of the file's name and bytes; raises InvalidRequest.

    What `receive` made is `discard`ed where the rest of the form turns out to be wrong.
    """
    if not request.content_type.startswith("multipart/"):
        raise InvalidRequest(
            "The body must be multipart/form-data with the fields file and purpose",
            code="invalid_body",
        )
    fields: dict[str, str] = {}
    received: list[T] = []
    try:
        async for part in _parts(request):
            if part.name == "file":
                if received:
                    raise InvalidRequest("file: one at a time", param="file")
                received.append(await receive(_name(part), _pieces(part)))
            elif len(fields) == _MOST_FIELDS:
                raise _no_form(f"it has more than {_MOST_FIELDS} fields")
            else:
                fields[part.name or ""] = await _text(part)
    except BaseException as error:  # also when the client goes
        for made in received:
            await discard(made)
        if isinstance(error, ValueError | web.RequestPayloadError):
            raise _no_form(str(error)) from error
        raise
    if not received:
        raise InvalidRequest("file: is required", param="file", code="missing_required_parameter")
    return fields, received[0]


async def _parts(request: web.Request) -> AsyncIterator[BodyPartReader]:
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader):
            raise _no_form("a part of it has parts of its own")
        yield part


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    while piece := await part.read_chunk(_PIECE_BYTES):
        yield bytes(piece)


async def _text(part: BodyPartReader) -> str:
    data = bytearray()
    while piece := await part.read_chunk(_MOST_FIELD_BYTES):
        data += piece
        if len(data) > _MOST_FIELD_BYTES:
            raise InvalidRequest(
                f"{part.name}: has more than {_MOST_FIELD_BYTES} bytes", param=part.name
            )
    return data.decode("utf-8", "replace")


def _name(part: BodyPartReader) -> str:
    """What the client calls the file, without folders and what cannot be printed."""
    name = (part.filename or "file.jsonl").replace("\\", "/").rpartition("/")[2]
    printable = "".join(sign for sign in name if sign.isprintable())
    return printable[:_MOST_NAME_CHARS] or "file.jsonl"


def _no_form(why: str) -> InvalidRequest:
    return InvalidRequest(f"The body is no form that can be read: {why}", code="invalid_body")
