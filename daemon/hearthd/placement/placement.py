"""Placement: where one copy of a model goes and in what room, from a configuration, the devices and a plan; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from hearthd import wire
from hearthd.config.schema import ModelConfig
from hearthd.errors import DeviceUnavailable, InsufficientMemory, UnknownDevice
from hearthd.hardware.checks import PairReport
from hearthd.hardware.device import Device
from hearthd.hardware.host import cpus_to_keep_to
from hearthd.placement.budgets import unusable
from hearthd.placement.candidates import Budgets, ModelFacts, links_of, shape_of, units_of
from hearthd.placement.cost import Prediction, Unit
from hearthd.placement.ledger import Need
from hearthd.placement.planner import Outcome, PlannedStage, Replica, copies, plan
from hearthd.placement.request import Policy, Request

ANY_PROCESSOR = "cpu:0"
"""What engines call the processors that they may use."""
RETRY_DEVICE_SECONDS = 30.0
"""Advice to a client of a model whose device is missing."""

Origin: TypeAlias = Literal["configured", "only", "planned"]
"""configured: as `devices` or `stages` say. only: there is one device. planned: the planner's choice."""


@dataclass(frozen=True, slots=True)
class Place:
    """Layers on a device, or on a group of equal ones."""

    device: str  # as the inventory calls it; a group: see `wire.group_name`
    backend: str | None = None  # None: the best that reads the file
    layers: tuple[int, int] | None = None  # None: all
    name: str | None = None  # what the backend calls the device, where that is known
    need: Need | None = None  # as planned
    budget_bytes: int | None = None  # that were free there
    own_process: bool | None = None  # None: decided by the engine
    cpus: tuple[int, ...] = ()  # processors it keeps to; empty: all of the engine's

    @property
    def devices(self) -> list[str]:
        return wire.device_names(self.device)


@dataclass(frozen=True, slots=True)
class Placement:
    """Of one copy of a model."""

    origin: Origin
    places: tuple[Place, ...]
    is_cut: bool = False  # into stages, which an engine is told of
    context: int | None = None  # None: the engine sizes it
    kv_tokens: int | None = None
    prediction: Prediction | None = None
    why: str = ""

    @property
    def devices(self) -> frozenset[str]:
        """All that it uses."""
        return frozenset(name for place in self.places for name in place.devices)

    @property
    def budget_bytes(self) -> int | None:
        """That were free on all its places; None: not known."""
        known = [place.budget_bytes for place in self.places]
        return sum(n for n in known if n is not None) if any(n is not None for n in known) else None

    @property
    def needs(self) -> list[tuple[Place, Need]]:
        """What was planned for each device."""
        return [(place, place.need) for place in self.places if place.need is not None]

    @property
    def device_by_name(self) -> dict[str, str]:
        """What the inventory calls devices, by what an engine calls them; of several the first."""
        return {
            place.name or ANY_PROCESSOR: place.device
            for place in reversed(self.places)
            if place.name is not None or place.device.startswith("cpu:")
        }

    @property
    def words(self) -> str:
        """ "cuda:0 with gguf, layers 0 to 11 | cpu:0 with gguf, layers 12 to 23"."""
        return " | ".join(_in_words(place) for place in self.places)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What there is for a model at one moment."""

    devices: Sequence[Device]
    reports: Sequence[PairReport]
    budgets: Budgets  # free now
    held: Mapping[str, Mapping[str, int]]  # by device: bytes by holder, that would come free


Pair: TypeAlias = tuple[str, str]
"""A device and a backend."""


def as_configured(config: ModelConfig) -> Placement | None:
    """What `devices` or `stages` say; None where neither does."""
    if config.stages:
        places = tuple(
            Place(s.device, s.backend, s.layers, own_process=s.own_process, cpus=s.cpus)
            for s in config.stages
        )
        return Placement("configured", places, is_cut=True, why="as models.NAME.stages says")
    if config.devices is not None:
        place = Place(wire.group_name(config.devices), config.backend)
        return Placement("configured", (place,), why="as models.NAME.devices says")
    return None


def check_names(placement: Placement, devices: Iterable[Device]) -> None:
    """Raise UnknownDevice where a configured device is not there."""
    names = [device.name for device in devices]
    for name in sorted(placement.devices):
        if name not in names:
            raise UnknownDevice(f"there is no device {name!r}; there are: {', '.join(names)}")


def check_available(words: Iterable[str], devices: Iterable[Device]) -> None:
    """Raise DeviceUnavailable where all that a word stands for is known, and none of it can be used.

    `words` name devices, kinds or vendors; `devices` has those that are gone, too.
    """
    known = list(devices)
    for word in sorted(words):
        meant = [d for d in known if word in (d.name, d.kind, d.vendor)]
        if meant and all(unusable(device) for device in meant):
            raise DeviceUnavailable(
                unusable(meant[0]) or "", retry_after_seconds=RETRY_DEVICE_SECONDS
            )


def check_words(config: ModelConfig, devices: Iterable[Device]) -> None:
    """Raise UnknownDevice where a word of the policy is true of no device."""
    known = list(devices)
    for word in (*config.require, *config.prefer):
        if not any(word in (d.name, d.kind, d.vendor) for d in known):
            raise UnknownDevice(
                f"there is no device {word!r}; there are: {', '.join(d.name for d in known)} (kinds: "
                f"{', '.join(dict.fromkeys(d.kind for d in known))}; vendors: "
                f"{', '.join(dict.fromkeys(d.vendor for d in known))})"
            )


def kept_to_nodes(places: Iterable[Place], devices: Iterable[Device]) -> list[Place]:
    """Stages on one of several memory nodes keep to its processors, in a process of their own."""
    known = list(devices)
    found = []
    for place in places:
        cpus = cpus_to_keep_to(known, place.device)
        if cpus is not None:
            name = ANY_PROCESSOR if place.name is None else place.name
            place = replace(place, name=name, cpus=place.cpus or tuple(sorted(cpus)))
        found.append(place)
    return found


def with_own_names(places: Iterable[Place], devices: Iterable[Device]) -> list[Place]:
    """With what the backends call the devices, and kept to their memory nodes."""
    known = list(devices)
    names = {(d.name, backend): name for d in known for backend, name in d.backends.items()}
    found = [replace(p, name=names.get((p.device, p.backend or ""), p.device)) for p in places]
    return kept_to_nodes(found, known)


def on_the_only(config: ModelConfig, devices: Sequence[Device]) -> Placement | None:
    """Where there is one device, nobody need be asked; None where there are more."""
    usable = [device for device in devices if device.state == "ready"]
    if len(usable) != 1 or config.replicas > 1:
        return None
    return Placement(
        "only", (Place(usable[0].name, config.backend),), why="the only device there is"
    )


def request_of(config: ModelConfig, facts: ModelFacts) -> Request:
    """What a configuration asks of the planner."""
    return Request(
        shape=shape_of(facts),
        context=config.context,
        concurrency=config.concurrency,
        objective=config.objective,
        policy=Policy(config.require, config.prefer, config.avoid),
        pooled=True,
        kv_tokens=config.kv_tokens,
    )


def candidates_of(
    config: ModelConfig,
    facts: ModelFacts,
    around: Surroundings,
    *,
    barred: frozenset[Pair] = frozenset(),
    taken: frozenset[str] = frozenset(),
    aside_bytes: int = 0,
) -> tuple[list[Unit], list[str]]:
    """The units that a model may use, and what is left out, in words.

    `barred` have failed to load it, `taken` have another copy; `aside_bytes` are for what goes along with it.
    """
    units, left_out = units_of(around.devices, around.reports, facts, around.budgets)
    found = []
    for unit in units:
        if config.backend is not None and unit.backend != config.backend:
            continue
        if unit.name in taken:
            left_out.append(f"{unit.name}: another copy of the model is there")
        elif (unit.name, unit.backend) in barred:
            left_out.append(f"{unit.name} with {unit.backend}: it has failed to load the model")
        else:
            found.append(
                replace(
                    unit,
                    budget_bytes=max(0, unit.budget_bytes - aside_bytes),
                    held_bytes=around.held.get(unit.name, {}),
                    pool_bytes=around.budgets.host_bytes - aside_bytes if unit.pool else None,
                )
            )
    return found, left_out


def with_workspaces(units: Iterable[Unit], measured: Mapping[Pair, int]) -> list[Unit]:
    """With what the model was measured to take beside weights and key-value memory, where it has been."""
    return [
        replace(unit, workspace_bytes=measured.get((unit.name, unit.backend), unit.workspace_bytes))
        for unit in units
    ]


def decide(
    config: ModelConfig, facts: ModelFacts, around: Surroundings, units: Sequence[Unit]
) -> tuple[Request, Outcome]:
    """The best plan for one copy; raises UnknownDevice."""
    request = request_of(config, facts)
    return request, plan(request, units, links_of(around.devices))


def placed(
    config: ModelConfig, facts: ModelFacts, around: Surroundings, units: Sequence[Unit]
) -> Placement:
    """Where one copy goes; raises InsufficientMemory with the arithmetic, UnknownDevice."""
    request, outcome = decide(config, facts, around, units)
    if outcome.plan is None:
        raise InsufficientMemory(outcome.refusal)
    return _placement(request, outcome.plan.replicas[0], around)


def copies_placed(
    config: ModelConfig, facts: ModelFacts, around: Surroundings, units: Sequence[Unit]
) -> list[Placement]:
    """Where `config.replicas` copies go, or as many as there is room for, the quickest first."""
    request = request_of(config, facts)
    links = links_of(around.devices)
    for n in range(config.replicas, 0, -1):
        found = copies(request, units, links, n)
        if found is not None:
            return [_placement(request, replica, around) for replica in found.replicas]
    return []


def _placement(request: Request, found: Replica, around: Surroundings) -> Placement:
    is_cut = len(found.stages) > 1
    demand = found.demand
    places = [_place(stage, around) for stage in found.stages]
    return Placement(
        "planned",
        tuple(kept_to_nodes(places, around.devices) if is_cut else places),
        is_cut=is_cut,
        # A whole model is sized by its engine, within what is free on its device.
        context=demand.context if is_cut else request.context,
        kv_tokens=demand.kv_tokens if is_cut else request.kv_tokens,
        prediction=found.prediction,
        why=f"planned for {request.objective}",
    )


def _place(stage: PlannedStage, around: Surroundings) -> Place:
    unit, memory = stage.unit, stage.memory
    own_names = {device.name: device.backends for device in around.devices}
    names = [own_names.get(name, {}).get(unit.backend, name) for name in unit.devices]
    return Place(
        device=wire.group_name(unit.devices),
        backend=unit.backend,
        layers=(stage.first, stage.last),
        name=wire.group_name(names),
        need=Need(memory.weights_bytes, memory.kv_bytes, memory.workspace_bytes, unit.name),
        budget_bytes=around.budgets.device_bytes.get(unit.name, unit.budget_bytes),
    )


def _in_words(place: Place) -> str:
    backend = "" if place.backend is None else f" with {place.backend}"
    layers = "" if place.layers is None else f", layers {place.layers[0]} to {place.layers[1] - 1}"
    return f"{place.device}{backend}{layers}"
