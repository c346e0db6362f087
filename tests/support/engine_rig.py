"""Rig: an engine in this process, driven step by step, its store checked after each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import TracebackType
from typing import Any

import msgspec
from eager_drafter import EagerDrafter

from hearth_backends import registry
from hearth_backends.base import Lease, Stage
from hearth_backends.sim.backend import SimBackend
from hearth_backends.sim.clock import SimClock
from hearthd import wire
from hearthd.engine.drafting.drafter import Drafter
from hearthd.engine.drafting.gate import DraftGate
from hearthd.engine.drafting.model import DraftModel
from hearthd.engine.intake import Intake
from hearthd.engine.load_plan import LoadPlan, PlannedStage, plan_load
from hearthd.engine.loader import assemble, load_adapters, load_stage


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
        draft: str | None = None,
        draft_clock: SimClock | None = None,
        gated: bool = False,
        wrap: Callable[[Stage], Stage] = lambda stage: stage,
        wrap_draft: Callable[[Stage], Stage] = lambda stage: stage,
        **sizes: Any,
    ) -> None:
        """`sizes`: fields of wire.Load; `wrap`, `wrap_draft`: what each stage is put into.

        `draft`: the path of a draft model, which is asked in every step. Without it and without a drafter
        nothing is guessed: what the gate decides (`gated`) depends on how fast this machine is.
        """
        load = wire.Load(
            name="rig", path=path, **{"context": 256, "concurrency": 4, "step_tokens": 64, **sizes}
        )
        if draft is not None:
            config = wire.DraftConfig(
                "small",
                draft,
                backend=load.backend,
                kv_dtype=load.kv_dtype,
                weights=load.weights,
                threads=load.threads,
            )
            load = msgspec.structs.replace(load, draft=config)
        self.plan = plan_load(_cut(load, n_stages))
        self.model = self.plan.model
        stages = [wrap(_load(stage, self.plan, clock)) for stage in self.plan.stages]
        small, draft_stages = self.plan.draft, []
        if small is not None:
            draft_stages = [wrap_draft(_load(s, small, draft_clock)) for s in small.stages]
        self.core = assemble(self.plan, stages, load, draft_stages)
        self.draft_model = _draft_model(self.core.scheduler.drafter)
        if self.draft_model is not None and clock is not None:
            self.draft_model.clock = clock
        if not gated:
            self.core.scheduler.drafter = None
            if self.draft_model is not None:
                drafter = EagerDrafter(self.draft_model)
        if drafter is not None:
            self.core.scheduler.draft_with(drafter)
        if clock is not None:
            self.core.scheduler.clock = clock
        self.intake = Intake(
            self.model, context=self.plan.room.context, adapters=self.plan.adapters
        )
        self.stores = [self.core.store]
        if self.draft_model is not None:
            self.stores.append(self.draft_model.store)
        self.capacity_tokens = [store.free_tokens() for store in self.stores]
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
        self.core.close()

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
        self._check()

    def step(self) -> list[wire.Delta]:
        """One step; the stores are whole after it."""
        deltas = self.core.step()
        self.n_steps += 1
        self._check()
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
        scheduler = self.core.scheduler
        assert not scheduler.running
        assert not scheduler.waiting
        assert [store.free_tokens() for store in self.stores] == self.capacity_tokens
        assert all(store.can_admit() for store in self.stores)
        self._check()

    def _check(self) -> None:
        for store in self.stores:
            store.check()

    def _hear(self, deltas: Sequence[wire.Delta]) -> None:
        for delta in deltas:
            self.answers[delta.rid].take(delta)


def _draft_model(drafter: Drafter | None) -> DraftModel | None:
    """What the gate of a loaded engine asks."""
    if isinstance(drafter, DraftGate) and drafter.offer is not None:
        return drafter.offer.model
    return None


def _cut(load: wire.Load, n_stages: int) -> wire.Load:
    """The same load, its layers cut into stages of about equal length."""
    if n_stages == 1:
        return load
    model = registry.open_model(load.path)
    backend, n_layers = load.backend or registry.candidates(model)[0], model.spec.n_layers
    cuts = [i * n_layers // n_stages for i in range(n_stages + 1)]
    stages = [wire.StageConfig(backend, layers=(first, last)) for first, last in pairwise(cuts)]
    return msgspec.structs.replace(load, stages=stages)


def _load(stage: PlannedStage, plan: LoadPlan, clock: SimClock | None) -> Stage:
    if clock is not None:
        stage = replace(stage, backend=SimBackend(clock))
    need = stage.backend.estimate(plan.model.spec, stage.spec, stage.device)
    lease = Lease(1, stage.device.name, need)
    loaded = load_stage(plan.model.spec, stage, (lease,), lambda _: None)
    load_adapters(loaded, plan, lease)
    return loaded
