"""/v1/batches: files of requests, answered when nobody else needs the models, in OpenAI's dialect."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from hearthd.api import body
from hearthd.api.keys import BATCHES
from hearthd.api.openai_files import keep_seconds_of
from hearthd.api.paging import cut, listed_to, owner_of, page_of, visible_to
from hearthd.api.response import json_response
from hearthd.batch.batch import Batch, Fault, Status
from hearthd.batch.service import Order

_LISTED: Final = 20
_MOST_LISTED: Final = 100

MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)] | None = None
    output_expires_after: dict[str, Any] | None = None


class RequestCounts(msgspec.Struct, frozen=True):
    """Lines."""

    total: int
    completed: int
    failed: int


class CachedTokens(msgspec.Struct, frozen=True):
    """Of the input."""

    cached_tokens: int


class ReasoningTokens(msgspec.Struct, frozen=True):
    """Nobody counts them here."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all answers."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens = ReasoningTokens()
    total_tokens: int


class BatchErrors(msgspec.Struct, frozen=True):
    """Why a batch came to nothing."""

    data: list[dict[str, str | int | None]]
    object: Literal["list"] = "list"


class BatchDetails(msgspec.Struct, frozen=True):
    """What Hearth adds."""

    owner: str
    paused: str | None


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """One batch as clients see it."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    hearth: BatchDetails


class BatchList(msgspec.Struct, frozen=True, kw_only=True):
    """One page."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


_decoder = msgspec.json.Decoder(BatchRequest)


async def create_batch(request: web.Request) -> web.Response:
    """POST /v1/batches"""
    asked = await body.read(request, _decoder)
    keep = asked.output_expires_after
    order = Order(
        owner=owner_of(request),
        endpoint=asked.endpoint,
        input_file=asked.input_file_id,
        window=asked.completion_window,
        metadata=asked.metadata,
        output_keep_seconds=None
        if keep is None
        else keep_seconds_of(keep.get("anchor"), keep.get("seconds"), "output_expires_after"),
    )
    batch = await request.app[BATCHES].create(order, sees_all=visible_to(request) is None)
    return json_response(shown(batch))


async def list_batches(request: web.Request) -> web.Response:
    """GET /v1/batches"""
    page = page_of(request, default=_LISTED, most=_MOST_LISTED)
    page = replace(page, purpose=None)
    found, has_more = cut(await request.app[BATCHES].listed(page), page)
    return json_response(
        BatchList(
            data=[shown(batch) for batch in found],
            first_id=found[0].id if found else None,
            last_id=found[-1].id if found else None,
            has_more=has_more,
        )
    )


async def get_batch(request: web.Request) -> web.Response:
    """GET /v1/batches/{batch_id}"""
    batch = await request.app[BATCHES].get(request.match_info["batch_id"], listed_to(request))
    return json_response(shown(batch))


async def cancel_batch(request: web.Request) -> web.Response:
    """POST /v1/batches/{batch_id}/cancel"""
    batch = await request.app[BATCHES].cancel(request.match_info["batch_id"], visible_to(request))
    return json_response(shown(batch))


def shown(batch: Batch) -> BatchObject:
    """A batch in OpenAI's shape. Pure."""
    usage = batch.usage
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=BatchErrors([_fault(fault) for fault in batch.faults]) if batch.faults else None,
        input_file_id=batch.input_file,
        completion_window=batch.window,
        status=batch.status,
        output_file_id=batch.output_file if batch.has_output else None,
        error_file_id=batch.error_file if batch.has_errors else None,
        created_at=int(batch.created),
        in_progress_at=_seconds(batch.in_progress),
        expires_at=int(batch.expires),
        finalizing_at=_seconds(batch.finalizing),
        completed_at=_seconds(batch.completed),
        failed_at=_seconds(batch.failed),
        expired_at=_seconds(batch.expired),
        cancelling_at=_seconds(batch.cancelling),
        cancelled_at=_seconds(batch.cancelled),
        request_counts=RequestCounts(batch.n_total, batch.n_completed, batch.n_failed),
        usage=BatchUsage(
            input_tokens=usage.n_prompt,
            input_tokens_details=CachedTokens(usage.n_cached),
            output_tokens=usage.n_output,
            total_tokens=usage.n_prompt + usage.n_output,
        ),
        metadata=batch.metadata,
        hearth=BatchDetails(batch.owner, batch.paused),
    )


def _fault(fault: Fault) -> dict[str, str | int | None]:
    return {
        "code": fault.code,
        "line": fault.line,
        "message": fault.message,
        "param": fault.param,
    }


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
