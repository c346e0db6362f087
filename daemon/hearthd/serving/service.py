"""Serving: the one thing that the API talks to; admits, routes, and hands out Generations."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec

from hearthd import wire
from hearthd.config.changes import compare_models
from hearthd.config.schema import ModelConfig, RequestClass
from hearthd.errors import DeadlineExceeded, HearthError, ShuttingDown
from hearthd.serving.admission import Admission
from hearthd.serving.books import Books
from hearthd.serving.call import Answer, Call
from hearthd.serving.changeover import Changeover
from hearthd.serving.deployments import Deployment, Deployments, Revision, draft_config
from hearthd.serving.encoding import Encoding, EncodingRequest
from hearthd.serving.generation import Generation, GenerationRequest
from hearthd.serving.identity import ModelIdentity, identity_of
from hearthd.serving.operations import WITHHELD, Operation, next_intake, unloaded
from hearthd.serving.principal import LEVELS, LOCAL, Principal
from hearthd.serving.quota import Standing
from hearthd.serving.replica import Replica
from hearthd.serving.router import pick
from hearthd.serving.status import ModelStatus, Readiness
from hearthd.serving.supervisor import Supervisor
from hearthd.serving.under_way import Tokens, UnderWay, cancelled, under_way
from hearthd.serving.work import Work
from hearthd.telemetry.metrics import Metrics
from hearthd.telemetry.timeline import RequestTimeline

__all__ = ["Generation", "GenerationRequest", "ModelStatus", "Readiness", "Serving"]

log = logging.getLogger(__name__)

F = TypeVar("F", wire.Submit, wire.Embed)

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
        self._changeover = Changeover(supervisor)
        self._metrics = metrics
        self._call_seconds = call_seconds
        self._numbers = itertools.count(1)
        self._draining = False
        self._books = Books()
        self._deployments = Deployments(
            (self._deployment(name, models, queue_limit), config.aliases)
            for name, config in models.items()
        )

    # --- requests ------------------------------------------------------------------------------

    def generate(self, request: GenerationRequest) -> Generation:
        """Admit a request, which waits in the bounded queue while its model loads.

        Raises ModelNotFound, Forbidden, ModelFailed, Overloaded, ConcurrencyLimited, RateLimited,
        DeadlineExceeded, ShuttingDown.
        """
        deployment, replica = self._route(request.model, request.principal)
        submit = msgspec.structs.replace(
            request.submit,
            salt=request.principal.salt,
            adapter=self._deployments.adapter(request.model),
        )
        submit = self._stamped(submit, request.principal, request.klass)
        timeline = self._admitted(deployment, request, submit)
        generation = Generation(submit, timeline, replica.leave, request.request_id)
        replica.submit(generation)
        return generation

    def embed(self, request: EncodingRequest) -> Encoding:
        """Admit a request for vectors or scores; raises what `generate` raises."""
        deployment, replica = self._route(request.model, request.principal)
        frame = self._stamped(request.frame, request.principal, request.klass)
        timeline = self._admitted(deployment, request, frame)
        encoding = Encoding(frame, timeline, replica.leave, request.request_id)
        replica.submit(encoding)
        return encoding

    def _admitted(
        self,
        deployment: Deployment,
        request: GenerationRequest | EncodingRequest,
        frame: wire.Submit | wire.Embed,
    ) -> RequestTimeline:
        """Count a request in, or its refusal."""
        timeline = RequestTimeline(
            model=deployment.name,
            klass=request.klass,
            key=request.principal.name,
            arrived_seconds=frame.arrived_seconds,
        )
        try:
            self._books.enter(
                deployment.admission, deployment.concurrency, request.principal, frame
            )
        except HearthError as error:
            timeline.outcome = "shed" if isinstance(error, DeadlineExceeded) else "rejected"
            timeline.refusal = error.code
            self._metrics.observe(timeline)
            raise
        return timeline

    def _stamped(self, frame: F, principal: Principal, klass: RequestClass) -> F:
        """The frame with its number, and with what its principal makes of it."""
        arrived = frame.arrived_seconds or time.monotonic()
        deadline = frame.deadline_seconds
        if deadline is None and principal.limits.deadline_seconds is not None:
            deadline = arrived + principal.limits.deadline_seconds
        return msgspec.structs.replace(
            frame,
            rid=next(self._numbers),
            arrived_seconds=arrived,
            deadline_seconds=deadline,
            priority=LEVELS[klass],
            key=principal.name,
            weight=principal.weight,
        )

    def standing(self, principal: Principal) -> Standing:
        """How a principal stands to its limits."""
        return self._books.standing(principal)

    def standings(self) -> list[Standing]:
        """How all who have asked for something stand to their limits."""
        return self._books.standings()

    async def encode(
        self, model: str, frame: wire.Encode, principal: Principal = LOCAL
    ) -> wire.Encoded:
        """Tokens of a text or a chat; numbers the frame.

        Raises ModelNotFound, Forbidden, ModelFailed, ShuttingDown, InvalidRequest, DeadlineExceeded.
        """
        frame = msgspec.structs.replace(frame, rid=next(self._numbers))
        answer = await self._call(model, frame, principal)
        assert isinstance(answer, wire.Encoded)
        return answer

    async def decode(
        self, model: str, frame: wire.Decode, principal: Principal = LOCAL
    ) -> wire.Decoded:
        """The text of tokens; numbers the frame. Raises what `encode` raises."""
        frame = msgspec.structs.replace(frame, rid=next(self._numbers))
        answer = await self._call(model, frame, principal)
        assert isinstance(answer, wire.Decoded)
        return answer

    async def _call(
        self, model: str, frame: wire.Encode | wire.Decode, principal: Principal
    ) -> Answer:
        _, replica = self._route(model, principal)
        try:
            async with asyncio.timeout(self._call_seconds):
                return await replica.call(Call(frame))
        except TimeoutError:
            raise DeadlineExceeded(
                f"the model {model} has not answered within {self._call_seconds:g} s"
            ) from None

    def _route(self, model: str, principal: Principal) -> tuple[Deployment, Replica]:
        deployment = self._deployments.resolve(model)
        principal.check_use(deployment.name)
        if self._draining:
            raise _shutting_down()
        deployment.check_intake()
        return deployment, pick(deployment.current.replicas)

    # --- what is known -------------------------------------------------------------------------

    def models(self) -> list[ModelStatus]:
        """Every model, in the order of the configuration; never waits."""
        return [deployment.status() for deployment in self._deployments]

    def model(self, name: str) -> ModelStatus:
        """One model, by name or alias, or with one of its adapters; raises ModelNotFound."""
        status = self._deployments.resolve(name).status()
        return replace(status, adapter=self._deployments.adapter(name))

    def quiet_seconds(self, name: str, klass: RequestClass) -> float:
        """How long a model has had nothing more urgent than a class; raises ModelNotFound."""
        admission = self._deployments.resolve(name).admission
        return admission.quiet_seconds(LEVELS[klass], time.monotonic())

    def under_way(self) -> list[UnderWay]:
        """Every request that is admitted and not over, oldest first."""
        now = time.monotonic()
        works = [work for replica in self._replicas() for work in replica.works]
        return [under_way(work, now) for work in sorted(works, key=lambda work: work.rid)]

    def tokens(self) -> Tokens:
        """Of all requests since the start, those under way included."""
        going = [work.timeline for replica in self._replicas() for work in replica.works]
        return Tokens(
            self._books.ended.n_prompt + sum(timeline.n_prompt for timeline in going),
            self._books.ended.n_output + sum(timeline.n_output for timeline in going),
        )

    def cancel(self, number: int) -> bool:
        """End one request: its client is told by whom. Returns whether it was there."""
        return any(replica.end(number, cancelled) for replica in self._replicas())

    def _replicas(self) -> Iterator[Replica]:
        return (r for deployment in self._deployments for r in deployment.current.replicas)

    def identity(self, name: str, principal: Principal = LOCAL) -> ModelIdentity | None:
        """What would answer under a name, if that is loaded or has been; None where it is not known yet.

        Raises ModelNotFound, Forbidden, ModelFailed, ShuttingDown.
        """
        deployment, replica = self._route(name, principal)
        if replica.info is None:
            return None
        adapter = self._deployments.adapter(name)
        return identity_of(deployment.name, replica.info, deployment.current.config, adapter)

    def readiness(self) -> Readiness:
        """Ready: every configured model answers that no operator has taken out, and there is one."""
        models = tuple(self.models())
        served = [model for model in models if model.state not in WITHHELD]
        ready = bool(served) and all(model.answers for model in served) and not self._draining
        return Readiness(ready=ready, draining=self._draining, models=models)

    def stalled(self, now: float) -> list[str]:
        """Models whose engines nobody looks after, though somebody should."""
        return self._supervisor.stalled(now)

    # --- the daemon's life ---------------------------------------------------------------------

    def start(self) -> None:
        """Start the engines; returns at once."""
        for deployment in self._deployments:
            self._supervisor.start(deployment.name, deployment.current)

    def reconfigure(
        self,
        models: Mapping[str, ModelConfig],
        *,
        queue_limit: int,
        call_seconds: float,
        drain_seconds: float,
    ) -> None:
        """Serve these models from now on; the names in them stand for one model each.

        Engines of models that leave or change finish what they have within `drain_seconds`; what comes for a
        changed one meanwhile waits for its new engine.
        """
        now = {deployment.name: deployment for deployment in self._deployments}
        changes = compare_models({name: d.current.config for name, d in now.items()}, models)
        going = [
            r for name in (*changes.removed, *changes.replaced) for r in now[name].current.replicas
        ]
        for name, config in models.items():
            if name in changes.added:
                now[name] = self._deployment(name, models, queue_limit)
            elif name in changes.replaced:
                now[name].current = self._revision(now[name].current.number + 1, name, models)
                now[name].intake = "open"
            else:
                now[name].current = replace(now[name].current, config=config)
            now[name].admission.queue_limit = queue_limit
        self._call_seconds = call_seconds
        self._deployments = Deployments((now[name], models[name].aliases) for name in models)
        coming = [(name, now[name].current) for name in (*changes.added, *changes.replaced)]
        if going or coming:
            self._changeover.begin(going, coming, drain_seconds)

    def operate(self, name: str, operation: Operation, drain_seconds: float) -> ModelStatus:
        """Do what an operator wants with a model, and say how it is then; never waits.

        An engine that goes finishes what it has within `drain_seconds`. Raises ModelNotFound, Conflict,
        ShuttingDown.
        """
        deployment = self._deployments.resolve(name)
        if self._draining:
            raise _shutting_down()
        before = deployment.intake
        deployment.intake = next_intake(
            operation, before, name=deployment.name, pinned=deployment.pinned
        )
        if operation in ("pin", "unpin"):
            deployment.pinned = operation == "pin"
        going = deployment.current.replicas
        if operation == "unload" and before != "unloaded":
            name = deployment.name
            self._changeover.begin(going, [], drain_seconds, lambda: unloaded(name))
        elif operation == "load" and (before == "unloaded" or _have_failed(going)):
            current = deployment.current
            replicas = self._copies(deployment.name, current.config)
            deployment.current = replace(current, number=current.number + 1, replicas=replicas)
            self._changeover.begin(going, [(deployment.name, deployment.current)], drain_seconds)
        return deployment.status()

    def hold(self, name: str, share: float) -> None:
        """Have a model use that share of its seats; raises ModelNotFound."""
        self._deployments.resolve(name).hold(share)

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
                await self._books.until_empty()
        except TimeoutError:
            log.warning("%d requests are cut off", self._books.n_open)
            return False
        return True

    async def stop(self, *, at_once: bool = False) -> None:
        """End what still runs, and every engine: asked first, or killed at once. Idempotent."""
        self._draining = True
        for deployment in self._deployments:
            for replica in deployment.current.replicas:
                replica.fail_all(_shutting_down)
        await self._changeover.stop(_shutting_down)
        await self._supervisor.stop(at_once=at_once)

    # --- parts ---------------------------------------------------------------------------------

    def _deployment(
        self, name: str, models: Mapping[str, ModelConfig], queue_limit: int
    ) -> Deployment:
        revision = self._revision(1, name, models)
        return Deployment(name, int(time.time()), Admission(name, queue_limit), revision)

    def _revision(self, number: int, name: str, models: Mapping[str, ModelConfig]) -> Revision:
        draft = draft_config(models[name], models)
        return Revision(number, models[name], self._copies(name, models[name]), draft)

    def _copies(self, name: str, config: ModelConfig) -> tuple[Replica, ...]:
        return tuple(Replica(name, self._over) for _ in range(config.replicas))

    def _over(self, work: Work) -> None:
        self._books.leave(work)
        self._metrics.observe(work.timeline)


def _have_failed(replicas: Sequence[Replica]) -> bool:
    return all(replica.state == "failed" for replica in replicas)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown(
        "hearthd is going down and takes no new requests",
        retry_after_seconds=RETRY_AFTER_STOP_SECONDS,
    )
