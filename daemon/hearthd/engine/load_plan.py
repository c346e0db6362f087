"""LoadPlan: from a Load frame to stages, devices and sizes; nothing is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import psutil

from hearth_backends import registry
from hearth_backends.base import AdapterSpec, Backend, Bytes, DeviceInfo, LoadedModel, StageSpec
from hearth_backends.errors import Unsupported
from hearth_backends.weights.spec import ModelSpec
from hearthd import wire
from hearthd.engine.drafting.opening import check_vocabularies, draft_load, draft_room
from hearthd.engine.places import check_one_group, place_of
from hearthd.engine.prefixes.opening import ram_bytes
from hearthd.engine.quarantine import best_backend, check_quarantine
from hearthd.engine.sizing import Room, choose_room
from hearthd.engine.stages.homes import has_own_process


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage before it is loaded."""

    backend: Backend
    devices: tuple[DeviceInfo, ...]  # several: a group, which shares every layer
    spec: StageSpec
    config: wire.StageConfig
    own_process: bool = False

    @property
    def device(self) -> DeviceInfo:
        """The first."""
        return self.devices[0]

    @property
    def leased_on(self) -> tuple[str, ...]:
        """What leases call its devices."""
        ledger = self.config.ledger
        return tuple(d.name for d in self.devices) if ledger is None else (ledger,)

    def share(self, model: ModelSpec) -> Bytes:
        """What it takes on each of its devices."""
        return self.backend.estimate_share(model, self.spec, self.devices)

    def need(self, model: ModelSpec) -> Bytes:
        """What it takes on all of its devices together."""
        share, n = self.share(model), len(self.devices)
        return Bytes(n * share.weights, n * share.kv, n * share.workspace)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A model, the stages it is cut into, and the room it gets."""

    model: LoadedModel
    stages: tuple[PlannedStage, ...]
    room: Room
    concurrency: int
    prefix_ram_bytes: int = 0
    draft: LoadPlan | None = None
    draft_name: str | None = None
    adapters: Mapping[str, AdapterSpec] = field(default_factory=dict)  # by name, as numbered from 1

    @property
    def adapter_bytes(self) -> int:
        """Of all adapters, on one device."""
        return sum(adapter.n_bytes for adapter in self.adapters.values())

    def _backends_on(self, device: str) -> str:
        names = [s.backend.name for s in self.stages if device in s.leased_on]
        return "+".join(dict.fromkeys(names))

    def _settings_on(self, device: str) -> str:
        layers = [f"{s.spec.first}-{s.spec.last}" for s in self.stages if device in s.leased_on]
        spec = self.stages[0].spec
        draft = "" if self.draft is None else f", with {self.draft_name}"
        return (
            f"layers {'+'.join(layers)}, {self.room.context} x {self.concurrency} in "
            f"{self.room.kv_tokens} {spec.kv_dtype}, {spec.weight_kind} weights, {spec.n_rows} rows, "
            f"{spec.threads} threads, {len(self.adapters)} adapters{draft}"
        )

    def lease_requests(self) -> list[wire.LeaseRequest]:
        """What each device has to give."""
        totals: dict[str, Bytes] = {}
        for stage in self.stages:
            need = stage.share(self.model.spec)
            for device in stage.leased_on:
                have = totals.get(device, Bytes(0, 0, 0))
                totals[device] = Bytes(
                    have.weights + need.weights + self.adapter_bytes,
                    have.kv + need.kv,
                    have.workspace + need.workspace,
                )
        if self.prefix_ram_bytes:
            host = next((s.leased_on[0] for s in self.stages if s.device.kind == "cpu"), HOST)
            have = totals.get(host, Bytes(0, 0, 0))
            totals[host] = replace(have, kv=have.kv + self.prefix_ram_bytes)
        return [
            wire.LeaseRequest(
                device=device,
                weights_bytes=need.weights,
                kv_bytes=need.kv,
                workspace_bytes=need.workspace,
                explanation=f"{self.model.spec.name}: context {self.room.context} x {self.concurrency} "
                f"sequences in {self.room.kv_tokens} tokens of key-value memory",
                backend=self._backends_on(device),
                settings=self._settings_on(device),
            )
            for device, need in totals.items()
        ]


def plan_load(load: wire.Load, model: LoadedModel | None = None) -> LoadPlan:
    """Read the model's header, unless it is `model`, and decide stages and sizes; allocates nothing large.

    Raises ModelFileError, Unsupported.
    """
    model = model or registry.open_model(load.path)
    small = None if load.draft is None else _open_draft(load, load.draft, model)

    adapters = _open_adapters(load, model)
    adapter_bytes = sum(adapter.n_bytes for adapter in adapters.values())

    def total_bytes(kv_tokens: int) -> int:
        return room_bytes(Room(LEAST, kv_tokens))

    def room_bytes(room: Room) -> int:
        n_bytes = _n_bytes(model, _stages(load, model, room)) + adapter_bytes
        return n_bytes if small is None else n_bytes + _n_bytes(small[1], _stages(*small, room))

    room = choose_room(
        context_trained=model.spec.context_trained,
        context=load.context,
        concurrency=load.concurrency,
        kv_tokens=load.kv_tokens,
        budget_bytes=load.budget_bytes,
        total_bytes=total_bytes,
        room_bytes=room_bytes,
    )
    stages = _stages(load, model, room)
    draft = None
    if small is not None:
        own_room = draft_room(room, small[1])
        draft = LoadPlan(small[1], _stages(*small, own_room), own_room, load.concurrency)
    check_one_group([stage.config for stage in (*stages, *(draft.stages if draft else ()))])
    needs = [stage.need(model.spec) for stage in stages]
    spare_bytes = None
    if load.budget_bytes is not None:
        spare_bytes = load.budget_bytes - sum(need.total for need in needs) - adapter_bytes
        spare_bytes -= 0 if draft is None else _n_bytes(draft.model, draft.stages)
    copies = 0
    if model.spec.state is None:  # else they are its saved states, which its stages have room for
        copies = ram_bytes(
            load.prefix_ram_bytes, kv_bytes=sum(need.kv for need in needs), spare_bytes=spare_bytes
        )
    name = None if load.draft is None else load.draft.name
    return LoadPlan(model, stages, room, load.concurrency, copies, draft, name, adapters)


HOST = "cpu:0"
"""Whose memory copies of prefixes take where no stage is on a processor."""
LEAST = 1
"""A context for estimates of what does not depend on it."""


def _open_adapters(load: wire.Load, model: LoadedModel) -> dict[str, AdapterSpec]:
    """The adapters of a load, which every stage can take; raises ModelFileError, Unsupported."""
    if not load.lora:
        return {}
    stages = _stages(load, model, Room(LEAST, 0))
    adapters: dict[str, AdapterSpec] = {}
    for config in load.lora:
        for stage in stages:
            path = Path(config.path)
            adapters[config.name] = stage.backend.open_adapter(model.spec, stage.spec, path)
    return adapters


def _open_draft(
    load: wire.Load, draft: wire.DraftConfig, model: LoadedModel
) -> tuple[wire.Load, LoadedModel]:
    """The draft model of a load, and how it is loaded; raises Unsupported for another vocabulary."""
    small = registry.open_model(draft.path)
    check_vocabularies(model, small, draft.name)
    return draft_load(load, draft), small


def _stages(load: wire.Load, model: LoadedModel, room: Room) -> tuple[PlannedStage, ...]:
    """Every stage in that room; raises Unsupported."""
    configs = _stage_configs(load, model)
    for config in configs:
        for device in wire.device_names(config.device):
            check_quarantine(load, config.backend, device)
    parts = [place_of(config, model.spec) for config in configs]
    return tuple(
        PlannedStage(
            backend,
            devices,
            _spec(load, model, configs, i, room),
            config,
            has_own_process(config),
        )
        for i, (config, (backend, devices)) in enumerate(zip(configs, parts, strict=True))
    )


def _n_bytes(model: LoadedModel, stages: Sequence[PlannedStage]) -> int:
    return sum(stage.need(model.spec).total for stage in stages)


def _stage_configs(load: wire.Load, model: LoadedModel) -> list[wire.StageConfig]:
    """The forced plan, or the whole model on one device; raises Unsupported for layers that do not add up."""
    n_layers = model.spec.n_layers
    if not load.stages:
        backend = best_backend(load, model)
        return [wire.StageConfig(backend=backend, device=load.device, layers=(0, n_layers))]
    if len(load.stages) == 1 and load.stages[0].layers is None:
        only = load.stages[0]
        return [msgspec.structs.replace(only, layers=(0, n_layers))]
    at = 0
    for i, stage in enumerate(load.stages):
        if stage.layers is None or stage.layers[0] != at or stage.layers[1] <= at:
            raise Unsupported(
                f"stages[{i}].layers must begin at {at} and hold at least one layer, not {stage.layers}"
            )
        at = stage.layers[1]
    if at != n_layers:
        raise Unsupported(f"the stages end at layer {at}, but the model has {n_layers} layers")
    return load.stages


def _spec(
    load: wire.Load, model: LoadedModel, configs: Sequence[wire.StageConfig], i: int, room: Room
) -> StageSpec:
    first, last = configs[i].layers or (0, model.spec.n_layers)
    own = set(wire.device_names(configs[i].device))
    n_sharing = sum(not own.isdisjoint(wire.device_names(config.device)) for config in configs)
    cores = load.threads or psutil.cpu_count(logical=False) or 1
    threads = max(1, cores // n_sharing)
    if cpus := configs[i].cpus:
        threads = min(load.threads or len(cpus), len(cpus))
    return StageSpec(
        first=first,
        last=last,
        embed=i == 0,
        head=i == len(configs) - 1,
        n_seq=load.concurrency,
        n_ctx=room.context,
        n_rows=max(load.step_tokens, load.concurrency),
        kv_tokens=room.kv_tokens,
        kv_dtype=load.kv_dtype,
        weight_kind=load.weights,
        threads=threads,
        state_bytes=load.prefix_ram_bytes,
    )
