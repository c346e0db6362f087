"""Rig: an engine in this process, driven step by step, its store checked after each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any

import msgspec

from hearth_backends import registry
from hearth_backends.base import Lease, Stage
from hearth_backends.sim.backend import SimBackend
from hearth_backends.sim.clock import SimClock
from hearthd import wire
from hearthd.engine.drafting.drafter import Drafter
from hearthd.engine.intake import Intake
from hearthd.engine.loader import LoadPlan, PlannedStage, assemble, plan_load


@dataclass(slots=True)
class Answer:
    """All that a request has said so far."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[wire.TokenLogprob] = field(default_factory=list)
    finish: wire.FinishReason | None = None
    usage: wire.Usage | None = None
    first_usage: wire.Usage | None = None
    stopped_by: str | int | None = None
    error: tuple[str, str] | None = None
    n_deltas: int = 0

    def take(self, delta: wire.Delta) -> None:
        """Add a delta, which must make sense after those before it."""
        assert self.finish is None, "something was said after the finish"
        assert (delta.usage is not None) == (not self.n_deltas or delta.finish is not None)
        self.n_deltas += 1
        self.text += delta.text
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs or []
        self.finish = delta.finish
        self.usage = delta.usage or self.usage
        self.first_usage = self.first_usage or delta.usage
        self.stopped_by = delta.stopped_by
        self.error = delta.error

    @property
    def output(self) -> list[int]:
        """Its tokens, the end token included."""
        return self.tokens + ([self.stopped_by] if isinstance(self.stopped_by, int) else [])


class Rig:
    """An EngineCore with its intake; use as a context manager."""

    def __init__(
        self,
        path: str,
        *,
        n_stages: int = 1,
        clock: SimClock | None = None,
        drafter: Drafter | None = None,
        wrap: Callable[[Stage], Stage] = lambda stage: stage,
        **sizes: Any,
    ) -> None:
        """`sizes`: fields of wire.Load; `wrap`: what each stage is put into.

        Without a drafter nothing is guessed: what the gate decides depends on how fast this machine is.
        """
        load = wire.Load(
            name="rig", path=path, **{"context": 256, "concurrency": 4, "step_tokens": 64, **sizes}
        )
        self.plan = plan_load(_cut(load, n_stages))
        self.model = self.plan.model
        stages = [wrap(_load(stage, self.plan, clock)) for stage in self.plan.stages]
        self.core = assemble(self.plan, stages, load)
        self.core.scheduler.drafter = None
        if drafter is not None:
            self.core.scheduler.draft_with(drafter)
        if clock is not None:
            self.core.scheduler.clock = clock
        self.intake = Intake(self.model, context=self.plan.room.context)
        self.capacity_tokens = self.core.store.free_tokens()
        self.answers: dict[int, Answer] = {}
        self.n_steps = 0

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.core.pipeline.close()

    def submit(
        self,
        prompt: Sequence[int] | str,
        sampling: wire.Sampling | None = None,
        **fields: Any,
    ) -> int:
        """Put a request in, and return its number; `fields` of wire.Submit."""
        rid = len(self.answers) + 1
        text, tokens = (prompt, None) if isinstance(prompt, str) else (None, list(prompt))
        frame = wire.Submit(
            rid=rid,
            sampling=sampling or wire.Sampling(temperature=0.0),
            text=text,
            tokens=tokens,
            **fields,
        )
        self.answers[rid] = Answer()
        self._hear(self.core.add(self.intake.submit(frame)))
        return rid

    def cancel(self, rid: int) -> None:
        """The client of a request goes."""
        self.core.cancel(rid)
        self.core.store.check()

    def step(self) -> list[wire.Delta]:
        """One step; the store is whole after it."""
        deltas = self.core.step()
        self.n_steps += 1
        self.core.store.check()
        self._hear(deltas)
        return deltas

    def run(self, limit: int = 10_000) -> dict[int, Answer]:
        """Step until nothing is left to do; all answers so far."""
        n_before = self.n_steps
        while self.core.has_work:
            assert self.n_steps - n_before < limit, "the engine does not come to an end"
            self.step()
        return self.answers

    def answer(self, prompt: Sequence[int] | str, *args: Any, **fields: Any) -> Answer:
        """The answer to a request that has the engine for itself."""
        rid = self.submit(prompt, *args, **fields)
        return self.run()[rid]

    def assert_nothing_leaked(self) -> None:
        """Every request has left, and all memory can be had again."""
        scheduler, store = self.core.scheduler, self.core.store
        assert not scheduler.running
        assert not scheduler.waiting
        assert store.free_tokens() == self.capacity_tokens
        assert store.can_admit()
        store.check()

    def _hear(self, deltas: Sequence[wire.Delta]) -> None:
        for delta in deltas:
            self.answers[delta.rid].take(delta)


def _cut(load: wire.Load, n_stages: int) -> wire.Load:
    """The same load, its layers cut into stages of about equal length."""
    if n_stages == 1:
        return load
    model = registry.open_model(load.path)
    backend, n_layers = registry.candidates(model)[0], model.spec.n_layers
    cuts = [i * n_layers // n_stages for i in range(n_stages + 1)]
    stages = [wire.StageConfig(backend, layers=(first, last)) for first, last in pairwise(cuts)]
    return msgspec.structs.replace(load, stages=stages)


def _load(stage: PlannedStage, plan: LoadPlan, clock: SimClock | None) -> Stage:
    backend = stage.backend if clock is None else SimBackend(clock)
    need = backend.estimate(plan.model.spec, stage.spec, stage.device)
    lease = Lease(1, stage.device.name, need)
    return backend.load(plan.model.spec, stage.spec, (stage.device,), (lease,), lambda _: None)
