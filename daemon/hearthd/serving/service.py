"""Serving: the one thing that the API talks to; admits, routes, and hands out Generations."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping

import msgspec

from hearthd import wire
from hearthd.config.schema import ModelConfig
from hearthd.errors import DeadlineExceeded, Overloaded, ShuttingDown
from hearthd.serving.admission import Admission
from hearthd.serving.call import Answer, Call
from hearthd.serving.deployments import Deployment, Deployments, Revision
from hearthd.serving.generation import Generation, GenerationRequest
from hearthd.serving.replica import Replica
from hearthd.serving.router import pick
from hearthd.serving.status import ModelStatus, Readiness
from hearthd.serving.supervisor import Supervisor
from hearthd.telemetry.metrics import Metrics
from hearthd.telemetry.timeline import RequestTimeline

__all__ = ["Generation", "GenerationRequest", "ModelStatus", "Readiness", "Serving"]

log = logging.getLogger(__name__)

RETRY_AFTER_STOP_SECONDS = 10.0
"""Advice to a client of a daemon that goes down: it may be a restart."""


class Serving:
    """Answers at once from what it knows; only iterating a Generation waits for an engine.

    `start` once the daemon listens, `drain` and `stop` when it ends.
    """

    def __init__(
        self,
        models: Mapping[str, ModelConfig],
        supervisor: Supervisor,
        metrics: Metrics,
        *,
        queue_limit: int = 256,
        call_seconds: float = 60.0,
    ) -> None:
        """Starts nothing; raises ValueError for a name that stands for two models."""
        self._supervisor = supervisor
        self._metrics = metrics
        self._call_seconds = call_seconds
        self._numbers = itertools.count(1)
        self._draining = False
        self._n_outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._deployments = Deployments(
            (self._deployment(name, config, queue_limit), config.aliases)
            for name, config in models.items()
        )

    # --- requests ------------------------------------------------------------------------------

    def generate(self, request: GenerationRequest) -> Generation:
        """Admit a request, which waits in the bounded queue while its model loads.

        Raises ModelNotFound, ModelFailed, Overloaded, ShuttingDown.
        """
        deployment, replica = self._route(request.model)
        now = time.monotonic()
        timeline = RequestTimeline(
            model=deployment.name,
            klass=request.klass,
            arrived_seconds=request.submit.arrived_seconds or now,
        )
        try:
            deployment.admission.admit(deployment.concurrency, now)
        except Overloaded:
            timeline.outcome = "rejected"
            self._metrics.observe(timeline)
            raise
        self._n_outstanding += 1
        self._idle.clear()
        submit = msgspec.structs.replace(
            request.submit,
            rid=next(self._numbers),
            arrived_seconds=timeline.arrived_seconds,
        )
        generation = Generation(submit, timeline, replica.leave, request.request_id)
        replica.submit(generation)
        return generation

    async def encode(self, model: str, frame: wire.Encode) -> wire.Encoded:
        """Tokens of a text or a chat; numbers the frame.

        Raises what `generate` raises but Overloaded, and InvalidRequest, DeadlineExceeded.
        """
        frame = msgspec.structs.replace(frame, rid=next(self._numbers))
        answer = await self._call(model, frame)
        assert isinstance(answer, wire.Encoded)
        return answer

    async def decode(self, model: str, frame: wire.Decode) -> wire.Decoded:
        """The text of tokens; numbers the frame. Raises what `encode` raises."""
        frame = msgspec.structs.replace(frame, rid=next(self._numbers))
        answer = await self._call(model, frame)
        assert isinstance(answer, wire.Decoded)
        return answer

    async def _call(self, model: str, frame: wire.Encode | wire.Decode) -> Answer:
        _, replica = self._route(model)
        try:
            async with asyncio.timeout(self._call_seconds):
                return await replica.call(Call(frame))
        except TimeoutError:
            raise DeadlineExceeded(
                f"the model {model} has not answered within {self._call_seconds:g} s"
            ) from None

    def _route(self, model: str) -> tuple[Deployment, Replica]:
        deployment = self._deployments.resolve(model)
        if self._draining:
            raise _shutting_down()
        return deployment, pick(deployment.current.replicas)

    # --- what is known -------------------------------------------------------------------------

    def models(self) -> list[ModelStatus]:
        """Every model, in the order of the configuration; never waits."""
        return [deployment.status() for deployment in self._deployments]

    def model(self, name: str) -> ModelStatus:
        """One model, by name or alias; raises ModelNotFound."""
        return self._deployments.resolve(name).status()

    def readiness(self) -> Readiness:
        """Ready: at least one model answers, and none is on its way."""
        models = tuple(self.models())
        states = {model.state for model in models}
        ready = "ready" in states and states <= {"ready", "failed"} and not self._draining
        return Readiness(ready=ready, draining=self._draining, models=models)

    # --- the daemon's life ---------------------------------------------------------------------

    def start(self) -> None:
        """Start the engines; returns at once."""
        for deployment in self._deployments:
            self._supervisor.start(deployment)

    async def drain(self, seconds: float) -> bool:
        """Take nothing new and let what runs finish within `seconds`; returns whether all did.

        What waits for a model that is not ready is told so at once.
        """
        self._draining = True
        for deployment in self._deployments:
            for replica in deployment.current.replicas:
                if replica.state != "ready":
                    replica.fail_all(_shutting_down)
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d requests are cut off", self._n_outstanding)
            return False
        return True

    async def stop(self, *, at_once: bool = False) -> None:
        """End what still runs, and every engine: asked first, or killed at once. Idempotent."""
        self._draining = True
        for deployment in self._deployments:
            for replica in deployment.current.replicas:
                replica.fail_all(_shutting_down)
        await self._supervisor.stop(at_once=at_once)

    # --- parts ---------------------------------------------------------------------------------

    def _deployment(self, name: str, config: ModelConfig, queue_limit: int) -> Deployment:
        admission = Admission(name, queue_limit)

        def over(generation: Generation) -> None:
            served = generation.finish in ("stop", "length")
            admission.leave(time.monotonic(), served=served)
            self._over(generation)

        revision = Revision(1, config, (Replica(name, over),))
        return Deployment(name, int(time.time()), admission, revision)

    def _over(self, generation: Generation) -> None:
        self._n_outstanding -= 1
        if not self._n_outstanding:
            self._idle.set()
        self._metrics.observe(generation.timeline)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(
        "hearthd is going down and takes no new requests",
        retry_after_seconds=RETRY_AFTER_STOP_SECONDS,
    )
