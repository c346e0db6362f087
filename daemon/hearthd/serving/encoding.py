"""Encoding: one admitted request for vectors or scores, and the one answer that comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hearthd import wire
from hearthd.config.schema import RequestClass
from hearthd.serving.principal import LOCAL, Principal
from hearthd.serving.work import Work
from hearthd.telemetry.timeline import RequestTimeline


@dataclass(frozen=True, slots=True)
class EncodingRequest:
    """What a dialect asks for: a model's name and one Embed frame without a number."""

    model: str  # alias as the client wrote it
    frame: wire.Embed  # rid 0: serving numbers it
    request_id: str  # for logs
    klass: RequestClass = "normal"
    principal: Principal = LOCAL


class Encoding(Work):
    """Used as `async with encoding: await encoding.result()`; leaving before that cancels it.

    Nothing of it is with the reader before all of it is: when its engine is lost, the next one
    computes it anew.
    """

    __slots__ = ("_result",)

    def __init__(
        self,
        frame: wire.Embed,
        timeline: RequestTimeline,
        leave: Callable[[Encoding], None],
        request_id: str = "",
    ) -> None:
        super().__init__(frame, timeline, leave, request_id)
        self._result: wire.Embedded | None = None

    @property
    def started(self) -> bool:
        return False

    @property
    def running(self) -> bool:
        return self.n_attempts > 0

    def resume(self) -> None:
        """Nothing of it is here: the frame asks for all of it already."""

    async def result(self) -> wire.Embedded:
        """The answer; raises what a Generation raises."""
        while self._result is None:
            if self.error is not None:
                raise self.error
            await self._wait()
        return self._result

    def answer(self, result: wire.Embedded, now: float) -> None:
        """It has come; ignored once the request is over."""
        if self.over:
            return
        self._result = result
        timeline = self.timeline
        timeline.n_prompt = result.n_prompt
        timeline.started_seconds = result.started_seconds
        timeline.finished_seconds = now
        self.finish = timeline.outcome = "stop"
        self._wake()
