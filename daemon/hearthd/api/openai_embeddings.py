"""POST /v1/embeddings: texts or token ids in, vectors out, in OpenAI's dialect."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from hearthd import wire
from hearthd.api import body, refusals
from hearthd.api.encoding import Usage, as_json, check_count, encode
from hearthd.api.response import json_response
from hearthd.api.schema import Name, Positive, Prompt
from hearthd.api.submission import prompts_of


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /v1/embeddings, with what vLLM adds."""

    model: Name
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    user: str | None = None
    service_tier: Name | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    add_special_tokens: bool | None = None

    normalize: bool | None = None
    messages: object = None


class Embedding(msgspec.Struct, frozen=True):
    """The vector of one input."""

    index: int
    embedding: msgspec.Raw
    object: Literal["embedding"] = "embedding"


class Embeddings(msgspec.Struct, frozen=True):
    """The vectors of all inputs, in order."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


_decoder = msgspec.json.Decoder(EmbeddingRequest)


async def embeddings(request: web.Request) -> web.Response:
    """Answer one request."""
    arrived_seconds = time.monotonic()
    asked = await body.read(request, _decoder)
    refusals.refuse(asked, refusals.EMBEDDING)
    inputs = prompts_of(asked.input, "input")
    check_count(len(inputs), "input")
    texts = [text for text in inputs if isinstance(text, str)]
    frame = wire.Embed(
        rid=0,
        texts=texts or None,
        token_lists=None if texts else [ids for ids in inputs if not isinstance(ids, str)],
        add_special=asked.add_special_tokens is not False,
        truncate=asked.truncate_prompt_tokens,
        dimensions=asked.dimensions,
        arrived_seconds=arrived_seconds,
    )
    encoded = await encode(request, asked.model, frame, asked.service_tier)
    vectors = await as_json(encoded, in_base64=asked.encoding_format == "base64")
    data = [Embedding(i, vector) for i, vector in enumerate(vectors)]
    return json_response(Embeddings(data, asked.model, encoded.usage), headers=encoded.headers)
