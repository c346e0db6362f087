"""Planner: on which devices a model runs best, or why it fits on none; pure.

Every single replica is the exact optimum over all subsets and orders of the devices and all cuts of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hearthd.placement.cost import (
    Demand,
    Links,
    ModelShape,
    Prediction,
    Unit,
    predict,
    problem_of,
    stage_memory,
)
from hearthd.placement.ledger import Footprint
from hearthd.placement.partition import Cut, Cuts, min_bottleneck, min_period, min_sum
from hearthd.placement.refusal import refusal
from hearthd.placement.request import (
    CONTEXT_STEP,
    FIRST_CONTEXT,
    Request,
    check_policy,
    fits_whole,
    tiers,
    usable,
    without_shared_memory,
)

N_RUNNERS_UP = 3
FAIR_SHARE = 0.5
"""Of what weights leave, the most that a context may take which nobody asked for, where sequences share memory."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """Layers [first, last) on a unit, and the memory they take there."""

    unit: Unit
    first: int
    last: int
    memory: Footprint


@dataclass(frozen=True, slots=True)
class Replica:
    """One copy of the model, in stages."""

    stages: tuple[PlannedStage, ...]
    demand: Demand
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Plan:
    """Copies of the model on devices that are not shared, the quickest first."""

    replicas: tuple[Replica, ...]
    context: int

    @property
    def prediction(self) -> Prediction:
        """Of all copies together; of the quickest for what one request sees."""
        first = self.replicas[0].prediction
        total = sum(replica.prediction.tokens_per_second for replica in self.replicas)
        return replace(first, tokens_per_second=total)

    @property
    def signature(self) -> frozenset[tuple[tuple[str, str, int], ...]]:
        """Equal for plans that put the same layers on the same devices."""
        return frozenset(
            tuple((stage.unit.name, stage.unit.backend, stage.last) for stage in replica.stages)
            for replica in self.replicas
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best plan and those that come after it, or why there is none."""

    plan: Plan | None
    runners_up: tuple[Plan, ...] = ()
    refusal: str = ""


def plan(request: Request, units: Sequence[Unit], links: Links) -> Outcome:
    """The best plan there is; raises UnknownDevice."""
    check_policy(request.policy, units)
    for allowed in tiers(request.policy, units):
        best = best_plan(request, allowed, links)
        if best is not None:
            return Outcome(best, _runners_up(request, allowed, links, best))
    return Outcome(None, refusal=refusal(request, units, links))


def best_plan(request: Request, units: Sequence[Unit], links: Links) -> Plan | None:
    """The best on these units, whatever the policy says; None where the model does not fit."""
    units = usable(request, units)
    if request.context is not None:
        return _best_for(request, units, links, request.context)
    context = min(FIRST_CONTEXT, request.shape.context_trained)
    while context:
        found = _best_for(request, units, links, context)
        if found is not None:
            return _with_most_context(request, links, found)
        context = context // 2 if context > CONTEXT_STEP else 0
    return None


def _best_for(request: Request, units: Sequence[Unit], links: Links, context: int) -> Plan | None:
    for demand in request.demands(context):
        found = _best_with(request, units, links, demand)
        if found is not None:
            return found
    return None


def _best_with(
    request: Request, units: Sequence[Unit], links: Links, demand: Demand
) -> Plan | None:
    found: list[Plan] = []
    for some in without_shared_memory(units):
        if not some:
            continue
        single = _best_single(request, some, links, demand)
        if single is not None:
            found.append(Plan((single,), demand.context))
        if request.objective == "throughput":
            found += _replicated(request, some, links, demand)
    return max(found, key=lambda plan: _worth(request, plan.prediction), default=None)


def _worth(request: Request, prediction: Prediction) -> float:
    if request.objective == "throughput":
        return prediction.tokens_per_second
    return prediction.alone_tokens_per_second


def _best_single(
    request: Request, units: Sequence[Unit], links: Links, demand: Demand
) -> Replica | None:
    """The best of one copy of the model."""
    shape = request.shape
    candidates: list[Cuts] = [
        (Cut(i, 0, shape.n_layers),)
        for i, unit in enumerate(units)
        if fits_whole(unit, shape, demand)
    ]
    if request.objective == "throughput":
        candidates += _quick_together(units, shape, demand, links, candidates)
    else:
        quickest = min_sum(problem_of(units, shape, demand, links, rows=1))
        candidates += [] if quickest is None else [quickest]
    replicas = [_replica(units, shape, demand, links, cuts) for cuts in candidates]
    return max(replicas, key=lambda replica: _worth(request, replica.prediction), default=None)


def _quick_together(
    units: Sequence[Unit], shape: ModelShape, demand: Demand, links: Links, known: Sequence[Cuts]
) -> list[Cuts]:
    """For each number of micro-batches the cuts with the shortest longest stage, where that is any better.

    With as many sequences as stages or more, a step of all takes n times the longest of n stages: a stage's hop is its
    own. With fewer, it takes at least as long as one sequence takes through all stages.
    """
    best_seconds = min(
        (
            demand.concurrency / predict(units, shape, demand, links, cuts).tokens_per_second
            for cuts in known
        ),
        default=float("inf"),
    )
    found: list[Cuts] = []
    n_devices = len({name for unit in units for name in unit.devices})
    for n in range(1, min(n_devices, demand.concurrency, shape.n_layers) + 1):
        rows = demand.concurrency / n
        problem = problem_of(units, shape, demand, links, rows=rows, most_stages=n)
        cuts = min_bottleneck(problem, below=best_seconds / n)
        if cuts is not None:
            found.append(cuts)
            best_seconds = min(best_seconds, n * max(problem.stage_seconds(cuts)))
    if n_devices > demand.concurrency:
        problem = problem_of(units, shape, demand, links, rows=1)
        cuts = min_period(problem, demand.concurrency)
        found += [] if cuts is None else [cuts]
    return found


def _replica(
    units: Sequence[Unit], shape: ModelShape, demand: Demand, links: Links, cuts: Cuts
) -> Replica:
    stages = tuple(
        PlannedStage(
            units[cut.unit],
            cut.first,
            cut.last,
            stage_memory(units[cut.unit], shape, demand, cut.first, cut.last),
        )
        for cut in cuts
    )
    return Replica(stages, demand, predict(units, shape, demand, links, cuts))


def _replicated(
    request: Request, units: Sequence[Unit], links: Links, demand: Demand
) -> Iterator[Plan]:
    """Several copies, each with an equal part of the sequences, on devices dealt out from the fastest on."""
    n_devices = len(_devices_by_speed(units))
    for n in range(2, min(n_devices, demand.concurrency) + 1):
        each, more = divmod(demand.concurrency, n)
        shares = [replace(demand, concurrency=each + (i < more)) for i in range(n)]
        yield from _dealt(request, units, links, shares)


def _dealt(
    request: Request, units: Sequence[Unit], links: Links, shares: Sequence[Demand]
) -> Iterator[Plan]:
    """A copy for each share: one device each, and the rest for the last; or all dealt out."""
    n, devices = len(shares), _devices_by_speed(units)
    if n > len(devices):
        return
    alone = [[device] for device in devices[: n - 1]] + [devices[n - 1 :]]
    dealt = [devices[i::n] for i in range(n)]
    for hands in (alone, dealt) if alone != dealt else (alone,):
        replicas = [
            _best_single(request, _only(units, hand), links, share)
            for hand, share in zip(hands, shares, strict=True)
        ]
        found = [replica for replica in replicas if replica is not None]
        if len(found) == n:
            found.sort(key=lambda replica: -replica.prediction.alone_tokens_per_second)
            yield Plan(tuple(found), shares[0].context)


def _devices_by_speed(units: Sequence[Unit]) -> list[str]:
    speed: dict[str, float] = {}
    for unit in units:
        if len(unit.devices) == 1:
            name = unit.devices[0]
            speed[name] = max(speed.get(name, 0.0), unit.bytes_per_second)
    return sorted(speed, key=lambda name: -speed[name])


def _only(units: Sequence[Unit], devices: Sequence[str]) -> list[Unit]:
    return [unit for unit in units if set(unit.devices) <= set(devices)]


def most_context(shape: ModelShape, replicas: Sequence[Replica]) -> int:
    """Tokens of one sequence that every stage has room for, its other leases counted; whole steps of 256."""
    least = shape.context_trained
    for replica in replicas:
        for stage in replica.stages:
            free = stage.unit.budget_bytes - stage.memory.total_bytes + stage.memory.kv_bytes
            token = sum(shape.layer_kv_bytes[stage.first : stage.last])
            if token:
                least = min(least, free // (token * replica.demand.concurrency))
    return least if least < CONTEXT_STEP else least // CONTEXT_STEP * CONTEXT_STEP


def fair_context(shape: ModelShape, replicas: Sequence[Replica], least: int) -> int:
    """Tokens of one sequence that a fair share of what the weights leave holds: the trained context, halved until
    it does, or `least`."""
    tokens = float("inf")
    for replica in replicas:
        for stage in replica.stages:
            free = stage.unit.budget_bytes - stage.memory.total_bytes + stage.memory.kv_bytes
            token = sum(shape.layer_kv_bytes[stage.first : stage.last])
            if token:
                tokens = min(tokens, FAIR_SHARE * free / token)
    context = shape.context_trained
    while context > tokens and context // 2 >= least:
        context //= 2
    return context if context <= tokens else least


def _with_most_context(request: Request, links: Links, found: Plan) -> Plan:
    """The same plan with as long sequences as it has room for."""
    if request.pooled:
        context = fair_context(request.shape, found.replicas, found.context)
    else:
        context = max(found.context, most_context(request.shape, found.replicas))
    replicas = []
    for replica in found.replicas:
        units = [stage.unit for stage in replica.stages]
        cuts = tuple(Cut(i, stage.first, stage.last) for i, stage in enumerate(replica.stages))
        demand = replace(
            replica.demand,
            context=context,
            prompt_tokens=min(request.prompt_tokens, context),
            shared_tokens=_at_least(replica.demand.shared_tokens, context),
        )
        replicas.append(_replica(units, request.shape, demand, links, cuts))
    return Plan(tuple(replicas), context)


def _at_least(shared_tokens: int | None, context: int) -> int | None:
    return None if shared_tokens is None else max(shared_tokens, context)


def copies(request: Request, units: Sequence[Unit], links: Links, n: int) -> Plan | None:
    """Exactly n copies for `request.concurrency` sequences each, on devices that no two share; None where there is no
    room for so many. Dealt out by rules, which is not exact."""
    context = request.context or min(FIRST_CONTEXT, request.shape.context_trained)
    while context:
        for demand in request.demands(context):
            for some in without_shared_memory(usable(request, units)):
                plans = list(_dealt(request, some, links, [demand] * n))
                if plans:
                    best = max(plans, key=lambda plan: _worth(request, plan.prediction))
                    return best if request.context else _with_most_context(request, links, best)
        if request.context is not None:
            return None
        context = context // 2 if context > CONTEXT_STEP else 0
    return None


def _runners_up(
    request: Request, units: Sequence[Unit], links: Links, best: Plan
) -> tuple[Plan, ...]:
    """What else could be done: with one device less, for another objective, all on one device."""
    request = replace(request, context=best.context)
    used = {
        name for replica in best.replicas for stage in replica.stages for name in stage.unit.devices
    }
    fewer = [[unit for unit in units if name not in unit.devices] for name in sorted(used)]
    single = [_only(units, [name]) for name in _devices_by_speed(units)]
    found = [best_plan(request, some, links) for some in (*fewer, *single)]
    if request.objective == "latency":
        found.append(best_plan(replace(request, objective="throughput"), units, links))
    elif request.objective == "throughput":
        found.append(best_plan(replace(request, objective="latency"), units, links))
    distinct = {plan.signature: plan for plan in found if plan is not None}
    distinct.pop(best.signature, None)
    ranked = sorted(distinct.values(), key=lambda plan: -_worth(request, plan.prediction))
    return tuple(ranked[:N_RUNNERS_UP])
