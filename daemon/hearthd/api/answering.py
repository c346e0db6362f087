"""Answering: one way from the deltas of choices to an answer, whole or streamed, for every dialect."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from hearthd import wire
from hearthd.api.deltas import merge
from hearthd.api.envelope import REQUEST_ID, as_hearth_error
from hearthd.api.fanout import Fanout
from hearthd.api.keys import OPTIONS, SERVING
from hearthd.api.response import json_response
from hearthd.api.sse import EventStream
from hearthd.api.terms import check_concurrency, terms_of
from hearthd.api.usage import UsageSum
from hearthd.errors import EngineFailed
from hearthd.serving.generation import GenerationRequest

log = logging.getLogger(__name__)


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
    """Runs the choices of one request and words them with a Reply."""

    def __init__(
        self,
        request: web.Request,
        reply: Reply,
        *,
        model: str,
        frames: Sequence[wire.Submit],
        n_prompts: int,
        id_prefix: str,
        service_tier: str | None = None,
    ) -> None:
        """`frames` are those of the choices, in order: prompt by prompt.

        Raises InvalidRequest, Forbidden where the request's terms cannot be had.
        """
        terms = terms_of(request, service_tier)
        check_concurrency(terms.principal, len(frames))
        self._request = request
        self._reply = reply
        self._model = model
        self._id = f"{id_prefix}-{secrets.token_hex(12)}"
        self._usage = UsageSum(n_choices=len(frames) // n_prompts)
        self._n_choices = len(frames)
        request_id = request[REQUEST_ID]
        self._fanout = Fanout(
            request.app[SERVING],
            [
                GenerationRequest(
                    model=model,
                    submit=msgspec.structs.replace(frame, deadline_seconds=terms.deadline_seconds),
                    request_id=request_id,
                    klass=terms.klass,
                    principal=terms.principal,
                )
                for frame in frames
            ],
        )

    async def whole(self) -> web.Response:
        """The answer in one piece; raises what the generations raise."""
        deltas: list[list[wire.Delta]] = [[] for _ in range(self._n_choices)]
        async with self._fanout as fanout:
            async for step in fanout.steps():
                for choice, delta in step:
                    self._usage.add(choice, _checked(delta))
                    deltas[choice].append(delta)
        self._begin()
        answer = self._reply.whole([merge(of_one) for of_one in deltas], self._usage.total())
        return json_response(answer, headers=self._digest_header())

    async def stream(self, *, include_usage: bool) -> web.StreamResponse:
        """The answer as events; raises what the generations raise before the first of them."""
        keep_alive_seconds = self._request.app[OPTIONS].keep_alive_seconds
        async with (
            self._fanout as fanout,
            EventStream(self._request, keep_alive_seconds=keep_alive_seconds) as events,
        ):
            try:
                await self._send_steps(fanout, events)
                if include_usage:
                    await events.send([self._reply.last_chunk(self._usage.total())])
                await events.done()
            except ConnectionResetError:
                log.debug("the client has gone")
            except Exception as error:
                if not events.started:
                    raise
                await self._send_error(events, error)
        return events.response

    async def _send_steps(self, fanout: Fanout, events: EventStream) -> None:
        reply, usage = self._reply, self._usage
        begun = False
        async for step in fanout.steps():
            if not begun:
                begun = True
                self._begin()
                if not events.started:
                    events.response.headers.update(self._digest_header())
            chunks: list[msgspec.Struct] = []
            for choice, delta in step:
                usage.add(choice, _checked(delta))
                chunks += reply.chunks(choice, delta)
            await events.send(chunks)

    async def _send_error(self, events: EventStream, error: Exception) -> None:
        try:
            await events.fail(as_hearth_error(error, self._request))
        except ConnectionResetError:
            log.debug("the client has gone")

    def _begin(self) -> None:
        info = self._fanout.info
        fingerprint = None if info is None else f"fp_{_short(info.digest)}"
        tool_format = None if info is None else info.tool_format
        self._reply.begin(Head(self._id, int(time.time()), self._model, fingerprint, tool_format))

    def _digest_header(self) -> dict[str, str]:
        info = self._fanout.info
        return {} if info is None else {"X-Model-Digest": info.digest}


def _short(digest: str) -> str:
    """The digest without the name of its algorithm, cut."""
    return digest.rpartition(":")[2][:12]


def _checked(delta: wire.Delta) -> wire.Delta:
    """Raises EngineFailed for an end that is no answer."""
    if delta.finish in {"cancelled", "error"}:
        raise EngineFailed("the engine ended this request before its answer was complete")
    return delta
