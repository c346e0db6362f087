"""POST /v1/rerank: how relevant documents are for a query, in the shape of Jina and Cohere."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from hearthd import wire
from hearthd.api import body, refusals
from hearthd.api.encoding import Usage, check_count, encode
from hearthd.api.response import json_response
from hearthd.api.schema import Name, Positive
from hearthd.errors import InvalidRequest


class TextObject(msgspec.Struct, frozen=True):
    """A text in an object of its own."""

    text: str


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /v1/rerank, /v2/rerank and /rerank."""

    model: Name
    query: str | TextObject
    documents: list[str | TextObject]
    top_n: Positive | None = None
    return_documents: bool | None = None
    user: str | None = None
    service_tier: Name | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    max_tokens_per_doc: Positive | None = None

    max_chunks_per_doc: object = None
    rank_fields: object = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """One document, by its place among those that were sent."""

    index: int
    relevance_score: float
    document: TextObject | None = None


class Ranking(msgspec.Struct, frozen=True):
    """The best documents, the best first."""

    id: str
    model: str
    results: list[Result]
    usage: Usage
    object: Literal["list"] = "list"


_decoder = msgspec.json.Decoder(RerankRequest)


async def rerank(request: web.Request) -> web.Response:
    """Answer one request; documents come back unless they are not wanted, as Jina has it."""
    return await _answer(request, returns_documents=True)


async def rerank_v2(request: web.Request) -> web.Response:
    """The same; documents come back only where they are asked for, as Cohere has it."""
    return await _answer(request, returns_documents=False)


async def _answer(request: web.Request, *, returns_documents: bool) -> web.Response:
    arrived_seconds = time.monotonic()
    asked = await body.read(request, _decoder)
    refusals.refuse(asked, refusals.RERANK)
    check_count(len(asked.documents), "documents")
    query = _text(asked.query)
    if not query:
        raise InvalidRequest("query: is empty", param="query")
    texts = [_text(document) for document in asked.documents]
    frame = wire.Embed(
        rid=0,
        texts=texts,
        query=query,
        truncate=asked.truncate_prompt_tokens,
        most_document_tokens=asked.max_tokens_per_doc,
        arrived_seconds=arrived_seconds,
    )
    encoded = await encode(request, asked.model, frame, asked.service_tier)
    if asked.return_documents is not None:
        returns_documents = asked.return_documents
    results = [
        Result(i, encoded.values[i], TextObject(texts[i]) if returns_documents else None)
        for i in best(encoded.values, asked.top_n)
    ]
    answer = Ranking(f"rerank-{secrets.token_hex(12)}", asked.model, results, encoded.usage)
    return json_response(answer, headers=encoded.headers)


def best(scores: Sequence[float], n: int | None) -> list[int]:
    """Places of the n highest scores (None: of all), the highest first, equal ones in order. Pure."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:n]


def _text(given: str | TextObject) -> str:
    return given if isinstance(given, str) else given.text
