"""Encoding: one way from a request's frame to its vectors or scores, for every dialect that asks."""

from __future__ import annotations

import array
import asyncio
import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from hearthd import wire
from hearthd.api.envelope import REQUEST_ID
from hearthd.api.keys import SERVING
from hearthd.api.terms import check_concurrency, terms_of
from hearthd.errors import InvalidRequest
from hearthd.serving.encoding import EncodingRequest

MAX_TEXTS = 2048
"""Inputs or documents of one request."""
_AT_ONCE = 64
"""Vectors that are written before others get a turn."""

_encoder = msgspec.json.Encoder()


class Usage(msgspec.Struct, frozen=True):
    """Tokens that were read; none are generated."""

    prompt_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """What came back, and of which model."""

    values: array.array[float]  # n times dim
    n: int
    dim: int
    usage: Usage
    headers: dict[str, str]


async def encode(
    request: web.Request, model: str, frame: wire.Embed, service_tier: str | None
) -> Encoded:
    """Have a frame computed; raises what `Encoding.result` raises. Leaving early cancels it."""
    terms = terms_of(request, service_tier)
    check_concurrency(terms.principal, 1)
    encoding = request.app[SERVING].embed(
        EncodingRequest(
            model=model,
            frame=msgspec.structs.replace(frame, deadline_seconds=terms.deadline_seconds),
            request_id=request[REQUEST_ID],
            klass=terms.klass,
            principal=terms.principal,
        )
    )
    async with encoding:
        found = await encoding.result()
    values = array.array("f", found.values)
    if sys.byteorder == "big":
        values.byteswap()
    headers = {} if encoding.info is None else {"X-Model-Digest": encoding.info.digest}
    return Encoded(values, found.n, found.dim, Usage(found.n_prompt, found.n_prompt), headers)


def check_count(n: int, field: str) -> None:
    """Raise InvalidRequest for no texts, or too many."""
    if n == 0:
        raise InvalidRequest(f"{field}: is empty", param=field)
    if n > MAX_TEXTS:
        raise InvalidRequest(
            f"{field}: has {n} entries; a request has at most {MAX_TEXTS}", param=field
        )


async def as_json(encoded: Encoded, *, in_base64: bool) -> Sequence[msgspec.Raw]:
    """Each vector as an array of numbers, or as text of its little-endian bytes.

    Others get turns meanwhile: a thousand vectors are a million numbers.
    """
    found: list[msgspec.Raw] = []
    for i in range(encoded.n):
        if i and i % _AT_ONCE == 0:
            await asyncio.sleep(0)
        vector = encoded.values[i * encoded.dim : (i + 1) * encoded.dim]
        found.append(
            _base64(vector) if in_base64 else msgspec.Raw(_encoder.encode(vector.tolist()))
        )
    return found


def _base64(vector: array.array[float]) -> msgspec.Raw:
    if sys.byteorder == "big":
        vector.byteswap()
    return msgspec.Raw(b'"' + base64.b64encode(vector.tobytes()) + b'"')
