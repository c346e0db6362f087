"""Generation: one admitted request and the deltas that come back, from any engine that answers it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import msgspec

from hearthd import wire
from hearthd.config.schema import RequestClass
from hearthd.errors import DeadlineExceeded, EngineFailed, InvalidRequest, ShuttingDown
from hearthd.serving.principal import LOCAL, Principal
from hearthd.serving.work import Work
from hearthd.telemetry.timeline import RequestTimeline


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a dialect asks for: a model's name and one Submit frame without a number."""

    model: str  # alias as the client wrote it
    submit: wire.Submit  # rid 0: serving numbers it
    request_id: str  # for logs
    klass: RequestClass = "normal"
    principal: Principal = LOCAL


class Generation(Work):
    """Yields the deltas of one request in order, up to and with the one that finishes it.

    Used as `async with generation: async for delta in generation`. Iterating raises InvalidRequest
    where the engine rejects the request, EngineFailed where it fails, or engines are lost again and
    again, ModelFailed where the model cannot be loaded, DeadlineExceeded, and ShuttingDown.
    """

    __slots__ = ("_deltas", "_emitted", "submit")

    def __init__(
        self,
        submit: wire.Submit,
        timeline: RequestTimeline,
        leave: Callable[[Generation], None],
        request_id: str = "",
    ) -> None:
        """`submit` has its number; `leave` is called when the reader leaves before the end."""
        super().__init__(submit, timeline, leave, request_id)
        self.submit = submit
        self._deltas: deque[wire.Delta] = deque()
        self._emitted: list[
            int
        ] = []  # tokens of the output, whose text the reader has or will have

    @property
    def started(self) -> bool:
        """Whether any delta has come."""
        return self.timeline.first_token_seconds is not None

    # --- the reader ----------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> wire.Delta:
        """The next delta; raises StopAsyncIteration after the finish, or what went wrong."""
        while not self._deltas:
            if self.error is not None:
                raise self.error
            if self.finish is not None:
                raise StopAsyncIteration
            await self._wait()
        return self._deltas.popleft()

    # --- the writer ----------------------------------------------------------------------------

    def push(self, delta: wire.Delta, now: float) -> None:
        """Add a delta; ignored once the request is over."""
        if self.over:
            return
        timeline = self.timeline
        self._emitted += delta.tokens
        if not self.started and self.submit.echo and delta.usage is not None:
            del self._emitted[: delta.usage.n_prompt]
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

    def resume(self) -> None:
        """Ask for what comes after the tokens that are here; released text is theirs exactly."""
        if not self.started:
            return
        frame = self.submit
        sampling = frame.sampling
        if sampling.n_logprobs is None and frame.prompt_logprobs is not None:
            sampling = msgspec.structs.replace(sampling, n_logprobs=frame.prompt_logprobs)
        self.frame = msgspec.structs.replace(
            frame, emitted=[*self._emitted], echo=False, prompt_logprobs=None, sampling=sampling
        )

    def _push_error(self, delta: wire.Delta, now: float) -> None:
        """What was generated still reaches the reader, then the reason."""
        if delta.text or delta.tokens:
            self._deltas.append(msgspec.structs.replace(delta, finish=None, error=None))
        code, message = delta.error or (EngineFailed.code, "the engine gave no reason")
        if code == DeadlineExceeded.code:
            self.fail(DeadlineExceeded(message), now)
        elif code == ShuttingDown.code:
            self.fail(ShuttingDown(message), now)
        elif code == "grammar_too_slow":  # it is what the client asked for
            self.fail(InvalidRequest(message, code=code), now)
        else:
            self.fail(EngineFailed(message, code=code), now)
