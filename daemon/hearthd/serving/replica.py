"""Replica: one engine's place, and the requests that are in it, whichever process fills it now."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from hearthd import wire
from hearthd.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    DeviceUnavailable,
    EngineFailed,
    HearthError,
    InvalidRequest,
    ModelFailed,
    ShuttingDown,
)
from hearthd.placement.placement import Placement
from hearthd.serving.call import Call
from hearthd.serving.encoding import Encoding
from hearthd.serving.generation import Generation
from hearthd.serving.process import EngineProcess
from hearthd.serving.restart import EngineEnd
from hearthd.serving.status import ModelState
from hearthd.serving.work import Work

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Engines that one request may lose before it is suspected of killing them."""


class Replica:
    """Keeps every frame until it is answered, so that a replacement can be asked again, in order.

    Requests come from `Serving`, processes from the `Supervisor`; all of it in the loop's thread.
    """

    def __init__(self, model: str, on_over: Callable[[Work], None]) -> None:
        """`on_over` hears once of each request that has ended, however it did."""
        self.model = model
        self.state: ModelState = "loading"
        self.phase: str | None = "starting"
        self.progress: float | None = 0.0
        self.failure: HearthError | None = None  # of the model when failed; of the last engine else
        self.info: wire.ModelInfo | None = None
        self.beat: wire.Beat | None = None
        self.n_restarts = 0
        self.rss_bytes: int | None = None
        self.placement: Placement | None = None  # of the engine that is there, or was last
        self.setbacks: list[str] = []  # where it could not be loaded, and why
        self.displaced: frozenset[str] = frozenset()  # devices it was on, which were lost
        self.retired = False  # another is in its place
        self.vacant = False  # its last engine is gone, and none will come
        self._on_over = on_over
        self._hold = wire.Hold(1.0)
        self._idle = asyncio.Event()  # no requests here
        self._idle.set()
        self._process: EngineProcess | None = None  # loading or ready
        self._generations: dict[int, Work] = {}  # and encodings; by number, which is their order
        self._calls: dict[int, Call] = {}
        self._deadlines: dict[int, asyncio.TimerHandle] = {}

    @property
    def pid(self) -> int | None:
        """Of the process that is there now."""
        return None if self._process is None else self._process.pid

    @property
    def why_not_answering(self) -> str | None:
        """Why its engine, though ready, cannot be said to answer now; None where it does."""
        return None if self._serving is None else self._serving.why_not_answering()

    @property
    def n_outstanding(self) -> int:
        return len(self._generations)

    @property
    def works(self) -> list[Work]:
        """The requests that are here, oldest first."""
        return list(self._generations.values())

    @property
    def n_running(self) -> int:
        """Requests that engines are at."""
        return sum(generation.running for generation in self._generations.values())

    @property
    def _serving(self) -> EngineProcess | None:
        return self._process if self.state == "ready" else None

    # --- requests ------------------------------------------------------------------------------

    def submit(self, generation: Work) -> None:
        """Hand it to the engine, or keep it until there is one."""
        self._generations[generation.rid] = generation
        self._idle.clear()
        deadline = generation.frame.deadline_seconds
        if deadline is not None:
            self._deadlines[generation.rid] = asyncio.get_running_loop().call_at(
                deadline, self._expire, generation
            )
        if self._serving is not None:
            self._send(self._serving, generation)

    def leave(self, generation: Work) -> None:
        """The reader has gone: the engine is told at once."""
        if self._generations.get(generation.rid) is generation:
            generation.cancel(time.monotonic())
            self._cancel(generation)

    def end(self, number: int, error: Callable[[], HearthError]) -> bool:
        """End one request with an error, which its reader gets; returns whether it was here."""
        generation = self._generations.get(number)
        if generation is None:
            return False
        generation.fail(error(), time.monotonic())
        self._cancel(generation)
        return True

    def hold(self, hold: wire.Hold) -> None:
        """Have its engine, and those that come after, use that share of their seats."""
        if hold != self._hold:
            self._hold = hold
            if self._serving is not None:
                self._serving.send(hold)

    async def call(self, call: Call) -> wire.Encoded | wire.Decoded:
        """Ask, and wait for the answer; raises what the engine or its end says."""
        self._calls[call.rid] = call
        try:
            if self._serving is not None:
                self._send_call(self._serving, call)
            return await call.answer
        finally:
            del self._calls[call.rid]

    def fail_all(self, error: Callable[[], HearthError]) -> None:
        """End everything that is here."""
        for generation in list(self._generations.values()):
            self._fail(generation, error())
        for call in self._calls.values():
            call.fail(error())

    async def until_idle(self, seconds: float) -> bool:
        """Wait until no request is here, for so long at most; returns whether none is."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _send(self, process: EngineProcess, generation: Work) -> None:
        if not generation.can_go_on_with(self.info):
            message = "the engine was lost, and the model is another now; the answer is incomplete"
            self._fail(generation, EngineFailed(message))
            return
        generation.taken_by(self.info, time.monotonic())
        try:
            process.send(generation.frame)
        except Exception as error:  # the place it was given must be given back, whatever it was
            self._fail(generation, why_not_sent(error))

    def _send_call(self, process: EngineProcess, call: Call) -> None:
        try:
            process.send(call.frame)
        except Exception as error:  # those after it are to be sent
            call.fail(why_not_sent(error))

    def _expire(self, generation: Work) -> None:
        generation.fail(
            DeadlineExceeded("the deadline of the request has passed before its end"),
            time.monotonic(),
        )
        self._cancel(generation)

    def _cancel(self, generation: Work) -> None:
        if self._serving is not None:
            self._serving.send(wire.Cancel(generation.rid))
        self._drop(generation)

    def _fail(self, generation: Work, error: HearthError) -> None:
        log.info(
            "a request ends: %s", error.message,
            extra={"model": self.model, "request_id": generation.request_id},
        )  # fmt: skip
        generation.fail(error, time.monotonic())
        self._drop(generation)

    def _drop(self, generation: Work) -> None:
        del self._generations[generation.rid]
        if not self._generations:
            self._idle.set()
        timer = self._deadlines.pop(generation.rid, None)
        if timer is not None:
            timer.cancel()
        self._on_over(generation)

    # --- processes, as the supervisor tells ----------------------------------------------------

    def attach(self, process: EngineProcess, placement: Placement) -> None:
        """A process is about to load the model there."""
        self._process, self.placement = process, placement
        self.phase, self.progress = "starting", 0.0

    def lost(self, end: EngineEnd) -> None:
        """The process is gone and will be replaced: the next one goes on with what is here."""
        were_taken = self.state == "ready"
        self._detach()
        self.state = "restarting"
        self.n_restarts += 1
        self.failure = EngineFailed(end.message, code=end.code)
        for generation in list(self._generations.values()):
            if end.is_displaced and were_taken:
                generation.n_attempts -= 1
            if generation.n_attempts >= MAX_ATTEMPTS:
                what = "was answered" if generation.started else "waited"
                message = (
                    f"{MAX_ATTEMPTS} engines were lost while this request {what}: {end.message}"
                )
                self._fail(generation, EngineFailed(message))
            else:
                generation.resume()

    def give_up(self, failure: HearthError) -> None:
        """The model has failed: nobody need wait for it."""
        self._detach()
        self.state = "failed"
        self.failure = failure
        self.fail_all(self.refusal)

    def try_again(self) -> None:
        """What was missing may be there now."""
        self.state, self.phase, self.progress, self.failure = "loading", "starting", 0.0, None

    def vacate(self) -> None:
        """No process is here any more, nor will be."""
        self._detach()
        self.vacant = True

    def refusal(self) -> HearthError:
        """What a client of a failed model is told."""
        if isinstance(self.failure, DeviceUnavailable):
            return DeviceUnavailable(
                f"the model {self.model} cannot run now: {self.failure.message}",
                retry_after_seconds=self.failure.retry_after_seconds,
            )
        reason = self.failure.message if self.failure is not None else "unknown"
        return ModelFailed(f"the model {self.model} has failed: {reason}")

    def _detach(self) -> None:
        self._process = self.beat = self.phase = self.progress = self.rss_bytes = None

    # --- EngineListener ------------------------------------------------------------------------

    def on_loading(self, process: EngineProcess, phase: str, fraction: float) -> None:
        if process is self._process:
            self.phase, self.progress = phase, fraction

    def on_ready(self, process: EngineProcess, info: wire.ModelInfo) -> None:
        self.state, self.info, self.failure = "ready", info, None
        self.phase = self.progress = None
        self.rss_bytes = info.rss_bytes
        if self._hold.share < 1.0:
            process.send(self._hold)
        for call in self._calls.values():
            self._send_call(process, call)
        for generation in list(self._generations.values()):
            self._send(process, generation)

    def on_beat(self, beat: wire.Beat) -> None:
        self.beat = beat

    def on_step(self, step: wire.Step) -> None:
        now = time.monotonic()
        generations = self._generations
        for delta in step.deltas:
            generation = generations.get(delta.rid)
            if isinstance(generation, Generation):  # None: it has left while the step ran
                generation.push(delta, now)
                if delta.finish is not None:
                    self._drop(generation)

    def on_embedded(self, frame: wire.Embedded) -> None:
        encoding = self._generations.get(frame.rid)
        if isinstance(encoding, Encoding):  # None: it has left meanwhile
            encoding.answer(frame, time.monotonic())
            self._drop(encoding)

    def on_answer(self, frame: wire.Reject | wire.Encoded | wire.Decoded) -> None:
        call = self._calls.get(frame.rid)
        if not isinstance(frame, wire.Reject):
            if call is not None:
                call.resolve(frame)
        elif call is not None:
            call.fail(error_of(frame))
        elif frame.rid in self._generations:
            self._fail(self._generations[frame.rid], error_of(frame))


def why_not_sent(error: Exception) -> HearthError:
    """The error of a request of which no frame can be made."""
    if isinstance(error, OverflowError):
        return InvalidRequest("an integer in the request has more than 64 bits")
    if isinstance(error, RecursionError):
        return InvalidRequest("the request is nested too deeply")
    log.error("a frame could not be sent to an engine", exc_info=error)
    return EngineFailed("the request could not be handed to the engine")


def error_of(reject: wire.Reject) -> HearthError:
    """The error that a Reject frame stands for."""
    if reject.code == ContextLengthExceeded.code:
        return ContextLengthExceeded(reject.message, param=reject.param)
    if 400 <= reject.status < 500:
        return InvalidRequest(reject.message, param=reject.param, code=reject.code)
    if reject.code == ShuttingDown.code:
        return ShuttingDown(reject.message)
    return EngineFailed(reject.message, param=reject.param, code=reject.code)
