"""FakeServing: a Serving without engines, whose answers a test scripts; Generations are the real ones."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import msgspec

from hearthd import wire
from hearthd.config.schema import ModelConfig, RequestClass
from hearthd.errors import EngineFailed, HearthError, InvalidRequest, ModelNotFound
from hearthd.serving.books import Books
from hearthd.serving.generation import Generation, GenerationRequest
from hearthd.serving.identity import ModelIdentity, identity_of
from hearthd.serving.operations import Operation
from hearthd.serving.principal import LOCAL, Principal
from hearthd.serving.service import Serving
from hearthd.serving.status import ModelStatus, Readiness
from hearthd.serving.under_way import Tokens, UnderWay
from hearthd.telemetry.timeline import RequestTimeline

DIGEST = "0123456789abcdef" * 4
INFO = wire.ModelInfo(
    digest=DIGEST,
    architecture="llama",
    quantization="F16",
    n_parameters=800_000,
    n_vocab=260,
    n_layers=4,
    context=2048,
    concurrency=16,
    kv_tokens=32768,
    backend="sim",
    stages=[wire.StageConfig("sim", "cpu:0", (0, 4))],
    has_chat_template=True,
    weights_bytes=3_000_000,
)

Script: TypeAlias = Callable[[wire.Submit], AsyncIterator[wire.Delta]]
"""What one request is answered; a HearthError that it raises is the end of the request."""


def model_status(name: str = "canary", **fields: object) -> ModelStatus:
    """A model that is ready, but for what is given."""
    ready = ModelStatus(
        name=name,
        path=f"/models/{name}.gguf",
        state="ready",
        phase=None,
        progress=None,
        error=None,
        error_code=None,
        info=INFO,
        created=1_700_000_000,
        n_running=0,
        n_waiting=0,
        kv_tokens_free=32768,
        pid=4711,
        n_restarts=0,
        engine_rss_bytes=50_000_000,
        answers=True,
    )
    values = {field: getattr(ready, field) for field in ModelStatus.__slots__}
    return ModelStatus(**{**values, **fields})


def spell(*texts: str, finish: wire.FinishReason = "stop") -> Script:
    """Say each text as one token, each in a delta of its own, the last with the finish."""

    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        wants_logprobs = submit.sampling.n_logprobs is not None
        for i, text in enumerate(texts):
            last = i == len(texts) - 1
            entry = wire.TokenLogprob(i, text.encode(), -0.5 * i, [(i, text.encode(), -0.5 * i)])
            yield wire.Delta(
                rid=submit.rid,
                text=text,
                tokens=[i],
                logprobs=[entry] if wants_logprobs else None,
                finish=finish if last else None,
                usage=wire.Usage(5, i + 1, 2) if last or not i else None,
            )
            await asyncio.sleep(0)

    return script


class FakeServing(Serving):
    """Keeps what it was asked; `left` holds the numbers of requests whose reader went early."""

    def __init__(self, script: Script | None = None, *models: ModelStatus) -> None:
        self.script = script or spell("Hel", "lo")
        self.statuses = models or (model_status(),)
        self.info = INFO
        self.refusal: HearthError | None = None  # raised by everything that needs an engine
        self.quiet = math.inf  # seconds without anything urgent
        self.submits: list[wire.Submit] = []
        self.encodes: list[wire.Encode] = []
        self.requests: list[GenerationRequest] = []
        self.request_ids: list[str] = []
        self.left: list[int] = []
        self.going: list[UnderWay] = []
        self.operated: list[tuple[str, Operation, float]] = []
        self._books = Books()
        self._happened = asyncio.Event()  # something was submitted or left
        self._tasks: set[asyncio.Task[None]] = set()

    def generate(self, request: GenerationRequest) -> Generation:
        self._find(request.model)
        submit = msgspec.structs.replace(request.submit, rid=len(self.submits) + 1)
        self.submits.append(submit)
        self.requests.append(request)
        self.request_ids.append(request.request_id)
        self._happened.set()
        timeline = RequestTimeline(
            model=request.model, klass=request.klass, arrived_seconds=submit.arrived_seconds
        )
        generation = Generation(submit, timeline, self._leave, request.request_id)
        task = asyncio.create_task(self._play(generation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return generation

    async def encode(
        self, model: str, frame: wire.Encode, principal: Principal = LOCAL
    ) -> wire.Encoded:
        self._find(model)
        self.encodes.append(frame)
        tokens = list((frame.text or "chat").encode())
        return wire.Encoded(0, tokens, [bytes((token,)) for token in tokens])

    async def decode(
        self, model: str, frame: wire.Decode, principal: Principal = LOCAL
    ) -> wire.Decoded:
        self._find(model)
        if max(frame.tokens, default=0) > 255:
            raise InvalidRequest("tokens[0]: outside the vocabulary", param="tokens")
        return wire.Decoded(0, bytes(frame.tokens).decode())

    def models(self) -> list[ModelStatus]:
        return list(self.statuses)

    def model(self, name: str) -> ModelStatus:
        for status in self.statuses:
            if status.name == name:
                return status
        raise ModelNotFound(name, [status.name for status in self.statuses])

    def identity(self, name: str, principal: Principal = LOCAL) -> ModelIdentity | None:
        status = self.model(name)
        principal.check_use(status.name)
        return identity_of(status.name, self.info, ModelConfig())

    def quiet_seconds(self, name: str, klass: RequestClass) -> float:
        return self.quiet

    def readiness(self) -> Readiness:
        ready = all(status.state == "ready" for status in self.statuses)
        return Readiness(ready=ready, draining=False, models=tuple(self.statuses))

    def under_way(self) -> list[UnderWay]:
        return list(self.going)

    def tokens(self) -> Tokens:
        return Tokens(n_output=sum(request.n_output for request in self.going))

    def cancel(self, number: int) -> bool:
        return any(request.number == number for request in self.going)

    def operate(self, name: str, operation: Operation, drain_seconds: float) -> ModelStatus:
        status = self.model(name)
        self.operated.append((name, operation, drain_seconds))
        return status

    async def got(self, n: int) -> None:
        """Wait until n requests have been submitted."""
        await self._until(lambda: len(self.submits) >= n)

    async def lost(self, n: int) -> None:
        """Wait until n requests have been left before their end."""
        await self._until(lambda: len(self.left) >= n)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._happened.clear()
            await self._happened.wait()

    async def stop(self, *, at_once: bool = True) -> None:
        """End the scripts that still run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _find(self, name: str) -> None:
        self.model(name)
        if self.refusal is not None:
            raise self.refusal

    async def _play(self, generation: Generation) -> None:
        try:
            async for delta in self.script(generation.submit):
                generation.taken_by(self.info, time.monotonic())
                generation.push(delta, time.monotonic())
            generation.fail(EngineFailed("the script has no end"), time.monotonic())
        except HearthError as error:
            generation.fail(error, time.monotonic())

    def _leave(self, generation: Generation) -> None:
        self.left.append(generation.rid)
        self._happened.set()
