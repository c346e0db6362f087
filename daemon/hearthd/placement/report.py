"""Report: a plan for people and for programs; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from hearthd.placement.ledger import format_bytes
from hearthd.placement.planner import Outcome, Plan, PlannedStage
from hearthd.placement.request import Request

_BAR = 32


def text_of(request: Request, outcome: Outcome, left_out: Sequence[str]) -> str:
    """Lines: the map of the layers, memory, speed, what else could be done, and what that stands on."""
    lines = list(_lines(request, outcome))
    lines += [f"left out: {reason}" for reason in left_out]
    return "\n".join(lines) + "\n"


def json_of(request: Request, outcome: Outcome, left_out: Sequence[str]) -> str:
    """One object."""
    value = {
        "model": request.shape.name,
        "objective": request.objective,
        "concurrency": request.concurrency,
        "plan": None if outcome.plan is None else _plain(outcome.plan),
        "runners_up": [_plain(plan) for plan in outcome.runners_up],
        "refusal": outcome.refusal or None,
        "left_out": list(left_out),
    }
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _lines(request: Request, outcome: Outcome) -> Iterator[str]:
    plan = outcome.plan
    if plan is None:
        yield f"no plan: {outcome.refusal}"
        return
    yield (
        f"{request.shape.name}: {request.shape.n_layers} layers, {plan.context} tokens x "
        f"{request.concurrency} sequences, for {request.objective}"
    )
    for i, replica in enumerate(plan.replicas):
        if len(plan.replicas) > 1:
            yield f"copy {i + 1}, for {replica.demand.concurrency} sequences"
        for stage in replica.stages:
            yield from _stage_lines(stage, request.shape.n_layers)
    yield f"predicted: {_speed(plan, request)}"
    for other in outcome.runners_up:
        yield f"  or {_short(other)}: {_speed(other, request)}"
    yield _basis(plan)


def _stage_lines(stage: PlannedStage, n_layers: int) -> Iterator[str]:
    begin, end = (round(_BAR * n / n_layers) for n in (stage.first, stage.last))
    bar = "." * begin + "#" * max(1, end - begin) + "." * (_BAR - max(end, begin + 1))
    memory = stage.memory
    yield f"  {_where(stage):24} {bar} layers {stage.first} to {stage.last - 1}"
    disk = ", weights from the disk" if stage.unit.disk_bytes_per_second is not None else ""
    yield (
        f"  {'':24} {format_bytes(memory.total_bytes)} of {format_bytes(stage.unit.budget_bytes)}: weights "
        f"{format_bytes(memory.weights_bytes)} + kv {format_bytes(memory.kv_bytes)} + workspace "
        f"{format_bytes(memory.workspace_bytes)}{disk}"
    )


def _where(stage: PlannedStage) -> str:
    return f"{stage.unit.name} {stage.unit.backend}".strip()


def _speed(plan: Plan, request: Request) -> str:
    found = plan.prediction
    return (
        f"{found.alone_tokens_per_second:.1f} tokens/s alone, {found.tokens_per_second:.1f} of "
        f"{request.concurrency} together, first token after {found.ttft_seconds:.2f} s "
        f"({plan.replicas[0].demand.prompt_tokens} tokens)"
    )


def _short(plan: Plan) -> str:
    return " | ".join(
        ", ".join(f"{_where(s)} {s.first} to {s.last - 1}" for s in replica.stages)
        for replica in plan.replicas
    )


def _basis(plan: Plan) -> str:
    """Which figures were measured."""
    stages = [stage for replica in plan.replicas for stage in replica.stages]
    measured = list(dict.fromkeys(_where(s) for s in stages if s.unit.measured))
    assumed = [
        f"{_where(s)} ({s.unit.bytes_per_second / 1e9:g} GB/s)"
        for s in stages
        if not s.unit.measured
    ]
    parts = [f"measured: {', '.join(measured)}"] if measured else []
    if assumed:
        parts.append(f"assumed: {', '.join(dict.fromkeys(assumed))}; `hearthd calibrate` measures")
    if any(len(replica.stages) > 1 for replica in plan.replicas):
        parts.append("links between stages are assumed")
    return "speeds " + "; ".join(parts)


def _plain(plan: Plan) -> dict[str, object]:
    found = plan.prediction
    return {
        "context": plan.context,
        "alone_tokens_per_second": found.alone_tokens_per_second,
        "tokens_per_second": found.tokens_per_second,
        "ttft_seconds": found.ttft_seconds,
        "replicas": [
            {
                "concurrency": replica.demand.concurrency,
                "stages": [
                    {
                        "device": stage.unit.name,
                        "backend": stage.unit.backend,
                        "layers": [stage.first, stage.last],
                        "weights_bytes": stage.memory.weights_bytes,
                        "kv_bytes": stage.memory.kv_bytes,
                        "workspace_bytes": stage.memory.workspace_bytes,
                        "budget_bytes": stage.unit.budget_bytes,
                        "measured": stage.unit.measured,
                        "bytes_per_second": stage.unit.bytes_per_second,
                    }
                    for stage in replica.stages
                ],
            }
            for replica in plan.replicas
        ],
    }
