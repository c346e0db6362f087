"""Generation: one admitted request and the deltas that come back, from any engine that answers it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from hearthd import wire
from hearthd.config.schema import RequestClass
from hearthd.errors import DeadlineExceeded, EngineFailed, HearthError, InvalidRequest
from hearthd.serving.principal import LOCAL, Principal
from hearthd.telemetry.timeline import Outcome, RequestTimeline


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a dialect asks for: a model's name and one Submit frame without a number."""

    model: str  # alias as the client wrote it
    submit: wire.Submit  # rid 0: serving numbers it
    request_id: str  # for logs
    klass: RequestClass = "normal"
    principal: Principal = LOCAL


class Generation:
    """Yields the deltas of one request in order, up to and with the one that finishes it.

    Used as `async with generation: async for delta in generation`, by one task. Leaving before the
    finish cancels the request. Iterating raises InvalidRequest where the engine rejects the request,
    EngineFailed where it fails or is lost after the first delta, ModelFailed where the model cannot
    be loaded, DeadlineExceeded, and ShuttingDown.
    """

    __slots__ = (
        "_deltas", "_leave", "_waiter", "error", "finish", "info", "n_attempts", "request_id",
        "submit", "timeline",
    )  # fmt: skip

    def __init__(
        self,
        submit: wire.Submit,
        timeline: RequestTimeline,
        leave: Callable[[Generation], None],
        request_id: str = "",
    ) -> None:
        """`submit` has its number; `leave` is called when the reader leaves before the end."""
        self.submit = submit
        self.timeline = timeline
        self.request_id = request_id
        self.info: wire.ModelInfo | None = None  # of the model that answers, once an engine took it
        self.finish: wire.FinishReason | None = None
        self.error: HearthError | None = None  # what it ended with, where it ended badly
        self.n_attempts = 0  # engines that got it
        self._deltas: deque[wire.Delta] = deque()
        self._leave = leave
        self._waiter: asyncio.Future[None] | None = None

    @property
    def rid(self) -> int:
        """The request's number, on every engine that gets it."""
        return self.submit.rid

    @property
    def started(self) -> bool:
        """Whether any delta has come: it cannot be given to another engine any more."""
        return self.timeline.first_token_seconds is not None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.finish is not None or self.error is not None

    # --- the reader ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.over:
            self._leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> wire.Delta:
        """The next delta; raises StopAsyncIteration after the finish, or what went wrong."""
        while not self._deltas:
            if self.error is not None:
                raise self.error
            if self.finish is not None:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._deltas.popleft()

    # --- the writer ----------------------------------------------------------------------------

    def taken_by(self, info: wire.ModelInfo | None, now: float) -> None:
        """An engine has got it."""
        self.n_attempts += 1
        self.info = info
        self.timeline.admitted_seconds = now
        self.timeline.backend = info.backend if info is not None else None

    def push(self, delta: wire.Delta, now: float) -> None:
        """Add a delta; ignored once the request is over."""
        if self.over:
            return
        timeline = self.timeline
        if timeline.first_token_seconds is None and (delta.tokens or delta.finish != "error"):
            timeline.first_token_seconds = now
            timeline.started_seconds = delta.started_seconds
        if delta.usage is not None:
            timeline.n_prompt = delta.usage.n_prompt
            timeline.n_cached = delta.usage.n_cached
            timeline.n_preempted = delta.usage.n_preempted
        timeline.n_output += len(delta.tokens)
        if delta.finish == "error":
            self._push_error(delta, now)
        else:
            self._deltas.append(delta)
            if delta.finish is not None:
                self.finish = timeline.outcome = delta.finish
                timeline.finished_seconds = now
                if delta.usage is not None:
                    timeline.n_output = delta.usage.n_output
        self._wake()

    def fail(self, error: HearthError, now: float) -> None:
        """End it with an error, which the reader gets after the deltas that are already here."""
        if self.over:
            return
        self.error = error
        self.timeline.finished_seconds = now
        self.timeline.outcome = _outcome(error, started=self.started)
        self._wake()

    def cancel(self, now: float) -> None:
        """The reader has left."""
        self.finish = self.timeline.outcome = "cancelled"
        self.timeline.finished_seconds = now

    def _push_error(self, delta: wire.Delta, now: float) -> None:
        """What was generated still reaches the reader, then the reason."""
        if delta.text or delta.tokens:
            self._deltas.append(msgspec.structs.replace(delta, finish=None, error=None))
        code, message = delta.error or (EngineFailed.code, "the engine gave no reason")
        if code == DeadlineExceeded.code:
            self.fail(DeadlineExceeded(message), now)
        else:
            self.fail(EngineFailed(message, code=code), now)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _outcome(error: HearthError, *, started: bool) -> Outcome:
    if isinstance(error, DeadlineExceeded):
        return "expired" if started else "shed"
    return "rejected" if isinstance(error, InvalidRequest) else "error"
