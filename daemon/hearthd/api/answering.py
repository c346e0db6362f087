"""Answering: one way from the deltas of choices to an answer, whole or streamed, for every dialect."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import msgspec
from aiohttp import web

from hearthd import wire
from hearthd.api.access import leashed
from hearthd.api.deltas import merge
from hearthd.api.envelope import REQUEST_ID, as_hearth_error
from hearthd.api.fanout import Fanout
from hearthd.api.keys import CACHE, OPTIONS, SERVING
from hearthd.api.response import json_body_response, json_bytes
from hearthd.api.sse import DONE, EventStream, encoded
from hearthd.api.terms import check_concurrency, terms_of
from hearthd.api.usage import UsageSum
from hearthd.cache.asked import Asked, Found
from hearthd.cache.control import directives_of
from hearthd.cache.source import Source
from hearthd.errors import EngineFailed
from hearthd.serving.generation import GenerationRequest

log = logging.getLogger(__name__)

_REPLAYED_STEPS: Final = 256  # of a kept stream, worded at once before others have a turn


class Head(msgspec.Struct, frozen=True):
    """What every part of an answer repeats."""

    id: str
    created: int  # unix seconds
    model: str  # as the client wrote it
    system_fingerprint: str | None = None
    tool_format: wire.ToolFormat | None = None  # that the model's template teaches


class Reply(Protocol):
    """How one dialect words the answer to one request."""

    def begin(self, head: Head) -> None:
        """The answer starts; called once, before any delta."""

    def chunks(self, choice: int, delta: wire.Delta) -> Sequence[msgspec.Struct]:
        """A delta as chunks of a stream."""

    def last_chunk(self, usage: msgspec.Struct) -> msgspec.Struct:
        """The chunk that carries the usage."""

    def whole(self, choices: Sequence[wire.Delta], usage: msgspec.Struct) -> msgspec.Struct:
        """The answer in one piece; a choice's deltas come merged."""


class Answer:
    """Has the choices of one request computed, or found in the cache, and words them with a Reply."""

    def __init__(
        self,
        request: web.Request,
        reply: Reply,
        *,
        model: str,
        frames: Sequence[wire.Submit],
        n_prompts: int,
        id_prefix: str,
        seeded: bool = False,
        service_tier: str | None = None,
    ) -> None:
        """`frames` are those of the choices, in order: prompt by prompt; `seeded`: by the client.

        Raises InvalidRequest, Forbidden where the request's terms cannot be had.
        """
        terms = terms_of(request, service_tier)
        check_concurrency(terms.principal, len(frames))
        self._request = request
        self._reply = reply
        self._model = model
        self._id_prefix = id_prefix
        self._seeded = seeded
        self._usage = UsageSum(n_choices=len(frames) // n_prompts)
        request_id = request[REQUEST_ID]
        self._requests = [
            GenerationRequest(
                model=model,
                submit=msgspec.structs.replace(frame, deadline_seconds=terms.deadline_seconds),
                request_id=request_id,
                klass=terms.klass,
                principal=terms.principal,
            )
            for frame in frames
        ]

    async def whole(self) -> web.Response:
        """The answer in one piece; raises what the generations raise."""
        deltas: list[list[wire.Delta]] = [[] for _ in self._requests]
        async with await self._answer() as found:
            body, info = found.body, found.info
            if found.source is not None:
                async for step in found.source.steps():
                    for choice, delta in step:
                        self._usage.add(choice, _checked(delta))
                        deltas[choice].append(delta)
                info = found.source.info
                self._begin(found, info)
                merged = [merge(of_one) for of_one in deltas]
                body = json_bytes(self._reply.whole(merged, self._usage.total()))
                found.keep(body)
        return json_body_response(body or b"", headers=_headers(found, info))

    async def stream(self, *, include_usage: bool) -> web.StreamResponse:
        """The answer as events; raises what the generations raise before the first of them."""
        keep_alive_seconds = self._request.app[OPTIONS].keep_alive_seconds
        async with (
            await self._answer() as found,
            EventStream(self._request, keep_alive_seconds=keep_alive_seconds) as events,
        ):
            try:
                async with leashed(self._request, self._requests[0].principal):
                    await self._send(found, events, include_usage=include_usage)
            except ConnectionResetError:
                log.debug("the client has gone")
            except Exception as error:  # a stream that has begun tells its client what it ends with
                if not events.started:
                    raise
                await self._send_error(events, error)
        return events.response

    async def _answer(self) -> AbstractAsyncContextManager[Found]:
        """The answer in the cache, under way, or begun on entry."""
        request = self._request
        body = await request.read()  # which has been read
        wording = hashlib.blake2b(body, digest_size=16, person=self._id_prefix.encode())
        asked = Asked(
            requests=self._requests,
            seeded=self._seeded,
            control=directives_of(request.headers.get("Cache-Control")),
            wording=wording.digest(),
            id=f"{self._id_prefix}-{secrets.token_hex(12)}",
            created=int(time.time()),
        )
        return request.app[CACHE].answer(
            asked, lambda: Fanout(request.app[SERVING], self._requests)
        )

    async def _send(self, found: Found, events: EventStream, *, include_usage: bool) -> None:
        if found.result == "HIT":
            await self._replay(found, events, include_usage=include_usage)
        elif found.source is not None:
            await self._send_steps(found, found.source, events)
            if include_usage:
                await events.send([self._reply.last_chunk(self._usage.total())])
            await events.done()

    async def _send_steps(self, found: Found, source: Source, events: EventStream) -> None:
        begun = False
        async for step in source.steps():
            if not begun:
                begun = True
                self._begin(found, source.info)
                if not events.started:
                    events.response.headers.update(_headers(found, source.info))
            await events.send(self._chunks(step))

    def _chunks(self, step: Sequence[tuple[int, wire.Delta]]) -> list[msgspec.Struct]:
        chunks: list[msgspec.Struct] = []
        for choice, delta in step:
            self._usage.add(choice, _checked(delta))
            chunks += self._reply.chunks(choice, delta)
        return chunks

    async def _replay(self, found: Found, events: EventStream, *, include_usage: bool) -> None:
        """The same events as the live answer had, in as few writes as there need be."""
        body = found.body
        if body is None and found.source is not None:
            self._begin(found, found.source.info)
            body = await self._worded(found.source, include_usage=include_usage)
            found.keep(body)
        events.response.headers.update(_headers(found, found.info))
        await events.send_encoded(body or b"")

    async def _worded(self, source: Source, *, include_usage: bool) -> bytes:
        parts: list[bytes] = []
        async for step in source.steps():
            parts.append(encoded(self._chunks(step)))
            if len(parts) % _REPLAYED_STEPS == 0:
                await asyncio.sleep(0)
        if include_usage:
            parts.append(encoded([self._reply.last_chunk(self._usage.total())]))
        return b"".join([*parts, DONE])

    async def _send_error(self, events: EventStream, error: Exception) -> None:
        try:
            await events.fail(as_hearth_error(error, self._request))
        except ConnectionResetError:
            log.debug("the client has gone")

    def _begin(self, found: Found, info: wire.ModelInfo | None) -> None:
        fingerprint = None if info is None else f"fp_{_short(info.digest)}"
        tool_format = None if info is None else info.tool_format
        self._reply.begin(Head(found.id, found.created, self._model, fingerprint, tool_format))


def _headers(found: Found, info: wire.ModelInfo | None) -> dict[str, str]:
    """Which model answered, and what the cache had to do with it."""
    headers: dict[str, str] = {"X-Cache": found.result}
    if info is not None:
        headers["X-Model-Digest"] = info.digest
    if found.age_seconds is not None:
        headers["Age"] = str(found.age_seconds)
    if found.similarity is not None:
        headers["X-Cache-Similarity"] = f"{found.similarity:.3f}"
    return headers


def _short(digest: str) -> str:
    """The digest without the name of its algorithm, cut."""
    return digest.rpartition(":")[2][:12]


def _checked(delta: wire.Delta) -> wire.Delta:
    """Raises EngineFailed for an end that is no answer."""
    if delta.finish in {"cancelled", "error"}:
        raise EngineFailed("the engine ended this request before its answer was complete")
    return delta
