"""Work: one admitted request on its way to an engine and back, whatever is asked for."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from hearthd import wire
from hearthd.errors import CancelledByOperator, DeadlineExceeded, HearthError, InvalidRequest
from hearthd.telemetry.timeline import Outcome, RequestTimeline


class Work(ABC):
    """Used as `async with`, by one task; leaving before the end cancels it."""

    __slots__ = (
        "_leave", "_waiter", "error", "finish", "frame", "info", "n_attempts", "request_id", "timeline"
    )  # fmt: skip

    def __init__(
        self,
        frame: wire.Submit | wire.Embed,
        timeline: RequestTimeline,
        leave: Callable[[Any], None],
        request_id: str = "",
    ) -> None:
        """`frame` has its number; `leave` is called when the reader leaves before the end."""
        self.frame = frame
        self.timeline = timeline
        self.request_id = request_id
        self.info: wire.ModelInfo | None = None  # of the model that answers, once an engine took it
        self.finish: wire.FinishReason | None = None
        self.error: HearthError | None = None  # what it ended with, where it ended badly
        self.n_attempts = 0  # engines that got it
        self._leave = leave
        self._waiter: asyncio.Future[None] | None = None

    @property
    def rid(self) -> int:
        """The request's number, on every engine that gets it."""
        return self.frame.rid

    @property
    @abstractmethod
    def started(self) -> bool:
        """Whether the reader may have some of it: another engine has to go on from there."""

    @property
    def running(self) -> bool:
        """Whether an engine is at it, as far as is known here."""
        return self.started

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

    async def _wait(self) -> None:
        """Until something has come."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- the writer ----------------------------------------------------------------------------

    @abstractmethod
    def resume(self) -> None:
        """Its engine was lost: have the frame ask the next one for what is still missing."""

    def can_go_on_with(self, info: wire.ModelInfo | None) -> bool:
        """Whether an engine of this model may say the rest: it is the same model, if anything was said."""
        before = self.info
        if not self.started or before is None or info is None:
            return True
        return (before.digest, before.adapters) == (info.digest, info.adapters)

    def taken_by(self, info: wire.ModelInfo | None, now: float) -> None:
        """An engine has got it."""
        self.n_attempts += 1
        self.info = info
        self.timeline.admitted_seconds = now
        self.timeline.backend = info.backend if info is not None else None

    def fail(self, error: HearthError, now: float) -> None:
        """End it with an error, which the reader gets after what is already here."""
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

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _outcome(error: HearthError, *, started: bool) -> Outcome:
    if isinstance(error, CancelledByOperator):
        return "cancelled"
    if isinstance(error, DeadlineExceeded):
        return "expired" if started else "shed"
    return "rejected" if isinstance(error, InvalidRequest) else "error"
