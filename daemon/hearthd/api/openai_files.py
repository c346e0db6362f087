"""/v1/files: inputs of batches are put here, and their answers fetched, in OpenAI's dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Literal

import msgspec
from aiohttp import web

from hearthd.api.keys import BATCHES
from hearthd.api.numbers import whole_number
from hearthd.api.paging import cut, owner_of, page_of, visible_to
from hearthd.api.response import json_response
from hearthd.api.upload import read_form
from hearthd.batch.stored import StoredFile
from hearthd.errors import InvalidRequest, NotFound

LEAST_KEEP_SECONDS: Final = 3600
MOST_KEEP_SECONDS: Final = 30 * 86400
_MOST_LISTED: Final = 10_000


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """One file as clients see it."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """One page."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(msgspec.Struct, frozen=True):
    """It has gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def shown(file: StoredFile) -> FileObject:
    """A file in OpenAI's shape. Pure."""
    return FileObject(
        id=file.id,
        bytes=file.n_bytes,
        created_at=int(file.created),
        expires_at=None if file.expires is None else int(file.expires),
        filename=file.name,
        purpose=file.purpose,
    )


async def upload(request: web.Request) -> web.Response:
    """POST /v1/files"""
    batches = request.app[BATCHES]

    async def receive(name: str, pieces: AsyncIterator[bytes]) -> StoredFile:
        return await batches.files.receive(pieces, owner=owner_of(request), name=name)

    async with batches.ready():
        fields, file = await read_form(request, receive, batches.files.discard)
        try:
            _check_purpose(fields.get("purpose"))
            keep_seconds = keep_seconds_of(
                fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
            )
        except BaseException:  # also when the client goes
            await batches.files.discard(file)
            raise
        file = await batches.files.settle(file, "batch", keep_seconds)
    return json_response(shown(file))


async def list_files(request: web.Request) -> web.Response:
    """GET /v1/files"""
    batches = request.app[BATCHES]
    page = page_of(request, default=_MOST_LISTED, most=_MOST_LISTED)
    async with batches.ready():
        found, has_more = cut(await batches.files.listed(page), page)
    return json_response(
        FileList(
            data=[shown(file) for file in found],
            first_id=found[0].id if found else None,
            last_id=found[-1].id if found else None,
            has_more=has_more,
        )
    )


async def get_file(request: web.Request) -> web.Response:
    """GET /v1/files/{file_id}"""
    batches = request.app[BATCHES]
    async with batches.ready():
        file = await batches.files.get(request.match_info["file_id"], visible_to(request))
    return json_response(shown(file))


async def delete_file(request: web.Request) -> web.Response:
    """DELETE /v1/files/{file_id}"""
    batches = request.app[BATCHES]
    file_id = request.match_info["file_id"]
    async with batches.ready():
        await batches.files.delete(file_id, visible_to(request))
    return json_response(FileDeleted(file_id))


async def get_content(request: web.Request) -> web.StreamResponse:
    """GET /v1/files/{file_id}/content"""
    batches = request.app[BATCHES]
    async with batches.ready():
        file = await batches.files.get(request.match_info["file_id"], visible_to(request))
    try:
        async with batches.files.content(file.id) as read:
            response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
            response.content_length = file.n_bytes
            await response.prepare(request)
            while piece := await read():
                await response.write(piece)
    except FileNotFoundError as error:
        raise NotFound(f"The content of {file.id} is lost") from error
    return response


def keep_seconds_of(anchor: object, seconds: object, at: str = "expires_after") -> float | None:
    """How long a file is kept; None: nobody has said. Raises InvalidRequest. Pure."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(f"{at}.anchor: must be created_at", param=f"{at}.anchor")
    return float(whole_number(str(seconds), f"{at}.seconds", LEAST_KEEP_SECONDS, MOST_KEEP_SECONDS))


def _check_purpose(purpose: str | None) -> None:
    if purpose is None:
        raise InvalidRequest(
            "purpose: is required", param="purpose", code="missing_required_parameter"
        )
    if purpose != "batch":
        raise InvalidRequest(
            f"purpose: only batch is served, not {purpose[:64]!r}",
            param="purpose",
            code="unsupported",
        )
