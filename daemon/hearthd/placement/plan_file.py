"""PlanFile: a plan as a file that people may edit, and what is wrong with one, by its line; pure."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from hearthd.config.schema import ModelConfig
from hearthd.errors import ConfigError, InsufficientMemory
from hearthd.placement.candidates import ModelFacts, shape_of
from hearthd.placement.cost import Demand, ModelShape, Unit, stage_memory
from hearthd.placement.ledger import Need, format_bytes
from hearthd.placement.placement import Place, Placement
from hearthd.placement.planner import Plan

Positive = Annotated[int, msgspec.Meta(ge=1)]
_STAGE = re.compile(r"^\s*\[\[\s*stages\s*\]\]")


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layers [first, last) on a device."""

    backend: str
    device: str
    layers: tuple[int, int]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stages: list[Stage]
    context: Positive
    kv_tokens: Positive


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What is written in one."""

    name: str  # of the file
    stages: tuple[Stage, ...]
    lines: tuple[int, ...]  # where the layers of each stage are written
    context: int
    kv_tokens: int


def written(plan: Plan, model: str) -> str:
    """The file of a plan's first copy."""
    replica = plan.replicas[0]
    lines = [
        f"# Where {model} runs: models.NAME.plan = this file. Edit it as you like: what has no room is refused.",
        f"context = {plan.context}",
        f"kv_tokens = {replica.demand.kv_tokens}",
    ]
    for stage in replica.stages:
        need, room = stage.memory.total_bytes, stage.unit.budget_bytes
        lines += [
            "",
            "[[stages]]",
            f'backend = "{stage.unit.backend}"',
            f'device = "{stage.unit.name}"',
            f"layers = [{stage.first}, {stage.last}]  # {format_bytes(need)} of {format_bytes(room)}",
        ]
    return "\n".join(lines) + "\n"


def parsed(text: str, name: str) -> PlanFile:
    """What a file says; raises ConfigError, with its line where that is known."""
    try:
        body = msgspec.convert(tomllib.loads(text), _Body)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{name}: {error}") from error
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        if _STAGE.match(line):
            lines.append(number)
        elif lines and re.match(r"\s*layers\s*=", line):
            lines[-1] = number
    if len(lines) != len(body.stages) or not lines:
        raise ConfigError(f"{name}: each stage is a table [[stages]], and there is at least one")
    return PlanFile(name, tuple(body.stages), tuple(lines), body.context, body.kv_tokens)


def placed_by(
    file: PlanFile, config: ModelConfig, facts: ModelFacts, units: Sequence[Unit]
) -> Placement:
    """The placement that a file wants; raises ConfigError or InsufficientMemory with the line and the number."""
    shape = shape_of(facts)
    _check_layers(file, shape)
    demand = Demand(
        config.context or file.context,
        config.concurrency,
        shared_tokens=config.kv_tokens or file.kv_tokens,
    )
    by_pair = {(unit.name, unit.backend): unit for unit in units}
    used: Counter[str] = Counter()
    places = []
    for stage, line in zip(file.stages, file.lines, strict=True):
        unit = by_pair.get((stage.device, stage.backend))
        if unit is None:
            there = ", ".join(f"{device} with {backend}" for device, backend in by_pair)
            raise ConfigError(
                f"{file.name}:{line}: there is no {stage.device} with {stage.backend} for this model; "
                f"there are: {there or 'none'}"
            )
        memory = stage_memory(unit, shape, demand, *stage.layers)
        _check_room(f"{file.name}:{line}", stage, unit, memory.total_bytes, used)
        need = Need(memory.weights_bytes, memory.kv_bytes, memory.workspace_bytes, unit.name)
        places.append(
            Place(unit.name, unit.backend, stage.layers, need=need, budget_bytes=unit.budget_bytes)
        )
    return Placement(
        "configured",
        tuple(places),
        is_cut=True,
        context=demand.context,
        kv_tokens=demand.kv_tokens,
        why=f"as {file.name} says",
    )


def _check_layers(file: PlanFile, shape: ModelShape) -> None:
    at = 0
    for stage, line in zip(file.stages, file.lines, strict=True):
        first, last = stage.layers
        if first != at or last <= at:
            raise ConfigError(
                f"{file.name}:{line}: layers must begin at {at} and hold at least one, not {list(stage.layers)}"
            )
        at = last
    if at != shape.n_layers:
        raise ConfigError(
            f"{file.name}:{file.lines[-1]}: the stages end at layer {at}, but the model has {shape.n_layers}"
        )


def _check_room(where: str, stage: Stage, unit: Unit, n_bytes: int, used: Counter[str]) -> None:
    """Every device has its own room, and what shares memory has it together."""
    rooms = {unit.name: unit.budget_bytes}
    if unit.pool:
        rooms[unit.pool] = unit.pool_bytes if unit.pool_bytes is not None else unit.budget_bytes
    for name, room in rooms.items():
        free = room - used[name]
        if n_bytes > free:
            raise InsufficientMemory(
                f"{where}: layers {stage.layers[0]} to {stage.layers[1] - 1} need {format_bytes(n_bytes)} "
                f"({n_bytes} bytes) on {stage.device}, where {format_bytes(max(0, free))} "
                f"({max(0, free)} bytes) are left"
            )
    for name in rooms:
        used[name] += n_bytes
