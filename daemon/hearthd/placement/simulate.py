"""Simulate: a fleet under a trace of requests, event by event, over the planner's cost model; pure and the same for the same seed."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hearthd.placement.cost import STEP_ROWS, Links, Unit, layer_seconds, link_between
from hearthd.placement.planner import Plan, Replica, best_plan
from hearthd.placement.request import Request

MOST_COMPARED = 64
"""Copies of the model among which the least loaded is looked for."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    at_seconds: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A device that is gone for a while."""

    box: int
    device: str
    at_seconds: float
    for_seconds: float  # inf: for ever


@dataclass(frozen=True, slots=True)
class Fleet:
    """Boxes that each plan for themselves; a box that is there n times is the same object n times."""

    request: Request
    boxes: tuple[tuple[Unit, ...], ...]
    links: Links
    jitter: float = 0.0  # standard deviation of a stage's time, as a part of it
    failures: tuple[Failure, ...] = ()
    replan_seconds: float = 10.0  # until the layers are where the new plan wants them


@dataclass(slots=True)
class Job:
    """A request under way."""

    arrival: Arrival
    n_output: int = 0
    n_prompt_left: int = 0
    first_seconds: float | None = None
    end_seconds: float | None = None
    n_moved: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a trace."""

    jobs: tuple[Job, ...]
    seconds: float
    n_unserved: int  # left over: no box could hold the model any more

    @property
    def tokens_per_second(self) -> float:
        """Of outputs, over the whole time."""
        return sum(job.n_output for job in self.jobs) / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Pipeline:
    """One copy of the model that runs."""

    replica: Replica
    box: int
    seats: int  # of one micro-batch
    free_at: list[float]  # by stage
    batches: list[list[Job]]  # micro-batches
    moving: list[bool]  # whether a micro-batch is on its way
    cache: dict[tuple[int, int, int], float] = field(default_factory=dict)
    n_jobs: int = 0
    is_up: bool = True

    @property
    def load(self) -> float:
        """Who is seated, for its speed."""
        return self.n_jobs / self.replica.prediction.tokens_per_second

    @property
    def has_seat(self) -> bool:
        """Whether one more may come."""
        return self.n_jobs < self.seats * len(self.batches)


class Simulation:
    """One run; `run` may be called once."""

    def __init__(self, fleet: Fleet, trace: Sequence[Arrival], seed: int = 0) -> None:
        self._fleet = fleet
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._waiting: deque[Job] = deque()
        self._jobs = [Job(arrival, 0, arrival.prompt_tokens) for arrival in trace]
        self._n_open = len(self._jobs)
        self._gone: list[set[str]] = [set() for _ in fleet.boxes]
        self._pipelines: list[_Pipeline] = []
        self._plans: dict[
            tuple[int, frozenset[str]], Plan | None
        ] = {}  # equal boxes are one object
        self._plans_in_use: dict[int, Plan | None] = {}
        for box in range(len(fleet.boxes)):
            self._set_up(box)

    def run(self) -> Result:
        """Until every request is answered, or nothing more can happen."""
        for job in self._jobs:
            self._at(job.arrival.at_seconds, lambda job=job: self._arrive(job))  # type: ignore[misc]
        for failure in self._fleet.failures:
            self._at(failure.at_seconds, lambda f=failure: self._lose(f))  # type: ignore[misc]
        while self._events and self._n_open:
            self._now, _, act = heapq.heappop(self._events)
            act()
        last = max((job.end_seconds or 0.0 for job in self._jobs), default=0.0)
        return Result(tuple(self._jobs), last, self._n_open)

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._numbers), act))

    def _arrive(self, job: Job) -> None:
        self._waiting.append(job)
        self._seat()

    def _set_up(self, box: int) -> None:
        """Plan anew on what a box has now."""
        plan = self._plans_in_use[box] = self._plan_of(box)
        for replica in () if plan is None else plan.replicas:
            n = min(len(replica.stages), replica.demand.concurrency)
            seats = -(-replica.demand.concurrency // n)
            stages = len(replica.stages)
            self._pipelines.append(
                _Pipeline(
                    replica,
                    box,
                    seats,
                    [self._now] * stages,
                    [[] for _ in range(n)],
                    [False] * n,
                )
            )

    def _plan_of(self, box: int) -> Plan | None:
        """The best on what a box has now; the same object for the same devices."""
        gone = self._gone[box]
        key = (id(self._fleet.boxes[box]), frozenset(gone))
        if key not in self._plans:
            units = [u for u in self._fleet.boxes[box] if not gone & set(u.devices)]
            found = best_plan(self._fleet.request, units, self._fleet.links) if units else None
            self._plans[key] = found
        return self._plans[key]

    def _lose(self, failure: Failure) -> None:
        """Requests go on elsewhere, with what they have said already as part of their prompts."""
        self._gone[failure.box].add(failure.device)
        if math.isfinite(failure.for_seconds):
            self._at(self._now + failure.for_seconds, lambda: self._come_back(failure))
        if not self._is_used(failure):
            return
        self._take_down(failure.box)
        self._at(self._now + self._fleet.replan_seconds, lambda: self._again(failure.box))

    def _come_back(self, failure: Failure) -> None:
        box = failure.box
        self._gone[box].discard(failure.device)
        if self._plan_of(box) is not self._plans_in_use.get(box):
            self._take_down(box)
            self._again(box)

    def _is_used(self, failure: Failure) -> bool:
        return any(
            failure.device in stage.unit.devices
            for pipeline in self._pipelines
            if pipeline.box == failure.box
            for stage in pipeline.replica.stages
        )

    def _take_down(self, box: int) -> None:
        self._plans_in_use.pop(box, None)
        for pipeline in self._pipelines:
            if pipeline.box != box:
                continue
            pipeline.is_up = False
            for job in itertools.chain(*pipeline.batches):
                job.n_prompt_left = job.arrival.prompt_tokens + job.n_output
                job.n_moved += 1
                self._waiting.appendleft(job)
        self._pipelines = [pipeline for pipeline in self._pipelines if pipeline.is_up]
        self._seat()

    def _again(self, box: int) -> None:
        if not any(pipeline.box == box for pipeline in self._pipelines):
            self._set_up(box)
            self._seat()

    def _seat(self) -> None:
        """Who waits goes where there are the fewest for the speed."""
        while self._waiting:
            pipeline = self._least_loaded()
            if pipeline is None:
                return
            self._fill(pipeline, 1)

    def _least_loaded(self) -> _Pipeline | None:
        """With a free seat; of many, the better of two that are drawn, and of all only where both are full."""
        known = self._pipelines
        if len(known) > MOST_COMPARED:
            drawn = self._chance.choice(known), self._chance.choice(known)
            best = min(drawn, key=lambda pipeline: pipeline.load)
            if best.has_seat:
                return best
        free = (pipeline for pipeline in known if pipeline.has_seat)
        return min(free, key=lambda pipeline: pipeline.load, default=None)

    def _fill(self, pipeline: _Pipeline, most: int) -> None:
        """Seat so many of those who wait, in the emptiest micro-batches."""
        for _ in range(most):
            if not self._waiting or not pipeline.has_seat:
                return
            k = min(range(len(pipeline.batches)), key=lambda k: len(pipeline.batches[k]))
            pipeline.batches[k].append(self._waiting.popleft())
            pipeline.n_jobs += 1
            if not pipeline.moving[k]:
                self._begin(pipeline, k)

    def _begin(self, pipeline: _Pipeline, k: int) -> None:
        """A micro-batch sets out, with those who sit in it now."""
        pipeline.moving[k] = True
        riders: list[tuple[Job, int]] = []
        room = STEP_ROWS
        for job in pipeline.batches[k]:
            rows = min(job.n_prompt_left, room) if job.n_prompt_left else 1
            if rows:
                riders.append((job, rows))
                room -= rows if job.n_prompt_left else 0
        self._enter(pipeline, k, 0, riders)

    def _enter(
        self, pipeline: _Pipeline, k: int, stage: int, riders: list[tuple[Job, int]]
    ) -> None:
        if not pipeline.is_up:
            return
        if stage == len(pipeline.free_at):
            self._finish(pipeline, k, riders)
            return
        seconds = self._seconds(pipeline, stage, sum(rows for _, rows in riders), len(riders))
        if self._fleet.jitter:
            seconds *= max(0.1, self._chance.gauss(1.0, self._fleet.jitter))
        done = max(self._now, pipeline.free_at[stage]) + seconds
        pipeline.free_at[stage] = done
        self._at(done, lambda: self._enter(pipeline, k, stage + 1, riders))

    def _finish(self, pipeline: _Pipeline, k: int, riders: list[tuple[Job, int]]) -> None:
        for job, rows in riders:
            if job.n_prompt_left > rows:
                job.n_prompt_left -= rows
                continue
            job.n_prompt_left = 0
            job.n_output += 1
            if job.first_seconds is None:
                job.first_seconds = self._now
            if job.n_output >= job.arrival.output_tokens:
                job.end_seconds = self._now
                self._n_open -= 1
                pipeline.batches[k].remove(job)
                pipeline.n_jobs -= 1
        pipeline.moving[k] = False
        self._fill(pipeline, len(riders))
        if pipeline.batches[k] and not pipeline.moving[k]:
            self._begin(pipeline, k)

    def _seconds(self, pipeline: _Pipeline, stage: int, rows: int, heads: int) -> float:
        """Of a pass, as the planner counts it: half way through the context."""
        known = pipeline.cache.get((stage, rows, heads))
        if known is not None:
            return known
        fleet, planned = self._fleet, pipeline.replica.stages[stage]
        kv_tokens = heads * pipeline.replica.demand.context / 2
        layers = layer_seconds(planned.unit, fleet.request.shape, rows, kv_tokens, heads=heads)
        seconds = sum(layers[planned.first : planned.last])
        if stage:
            before = pipeline.replica.stages[stage - 1].unit
            link = link_between(fleet.links, before, planned.unit)
            seconds += link.hop_seconds(rows, fleet.request.shape.d_model)
        pipeline.cache[stage, rows, heads] = seconds
        return seconds


def simulate(fleet: Fleet, trace: Sequence[Arrival], seed: int = 0) -> Result:
    """What comes of a trace on a fleet."""
    return Simulation(fleet, trace, seed).run()
