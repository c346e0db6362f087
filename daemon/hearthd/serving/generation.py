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
from hearthd.errors import EngineFailed, HearthError


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a dialect asks for: a model's name and one Submit frame without a number."""

    model: str  # alias as the client wrote it
    submit: wire.Submit  # rid 0: serving numbers it
    request_id: str  # for logs
    klass: str = "normal"  # label of metrics: interactive | normal | batch


class Generation:
    """Yields the deltas of one request in order, up to and with the one that finishes it.

    Used as `async with generation: async for delta in generation`, by one task. Leaving before the
    finish cancels the request. Iterating raises InvalidRequest where the engine rejects the request,
    EngineFailed where it fails or is lost after the first delta, ModelFailed where the model cannot
    be loaded, DeadlineExceeded, and ShuttingDown.
    """

    __slots__ = (
        "_deltas", "_error", "_leave", "_waiter", "admitted_seconds", "finish",
        "finished_seconds", "first_token_seconds", "info", "n_output", "request", "started_seconds",
        "submit", "usage",
    )  # fmt: skip

    def __init__(
        self,
        request: GenerationRequest,
        submit: wire.Submit,
        leave: Callable[[Generation], None],
        *,
        admitted_seconds: float = 0.0,
    ) -> None:
        """`submit` has its number; `leave` is called when the reader leaves before the end."""
        self.request = request
        self.submit = submit
        self.info: wire.ModelInfo | None = None  # of the model that answers, once an engine took it
        self.usage: wire.Usage | None = None  # the latest
        self.finish: wire.FinishReason | None = None
        self.n_output = 0  # tokens that came
        self.admitted_seconds = admitted_seconds  # these four on the monotonic clock
        self.started_seconds: float | None = None
        self.first_token_seconds: float | None = None
        self.finished_seconds: float | None = None
        self._deltas: deque[wire.Delta] = deque()
        self._error: HearthError | None = None
        self._leave = leave
        self._waiter: asyncio.Future[None] | None = None

    @property
    def rid(self) -> int:
        """The request's number, on every engine that gets it."""
        return self.submit.rid

    @property
    def started(self) -> bool:
        """Whether any delta has come: it cannot be given to another engine any more."""
        return self.first_token_seconds is not None

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.finish is not None or self._error is not None

    @property
    def error(self) -> HearthError | None:
        """What it ended with, where it ended badly."""
        return self._error

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
            if self._error is not None:
                raise self._error
            if self.finish is not None:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._deltas.popleft()

    # --- the writer ----------------------------------------------------------------------------

    def push(self, delta: wire.Delta, now: float) -> None:
        """Add a delta; `now` on the monotonic clock. Ignored once the request is over."""
        if self.over:
            return
        if self.first_token_seconds is None:
            self.first_token_seconds = now
            self.started_seconds = delta.started_seconds
        self.n_output += len(delta.tokens)
        if delta.usage is not None:
            self.usage = delta.usage
        if delta.finish is not None:
            self.finished_seconds = now
            if delta.finish == "error":
                code, message = delta.error or ("engine_failed", "the engine gave no reason")
                self._error = EngineFailed(message, code=code)
                delta = msgspec.structs.replace(delta, finish=None, error=None)
            else:
                self.finish = delta.finish
        if delta.text or delta.tokens or delta.usage or delta.finish or self._error is None:
            self._deltas.append(delta)
        self._wake()

    def fail(self, error: HearthError, now: float) -> None:
        """End it with an error, which the reader gets after the deltas that are already here."""
        if not self.over:
            self._error = error
            self.finished_seconds = now
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
