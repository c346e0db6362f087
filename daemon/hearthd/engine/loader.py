"""Loader: from a plan to an engine that answers, with a lease before every allocation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psutil

from hearth_backends.base import Bytes, Lease, Progress, Stage
from hearth_backends.kv.contract import KVStore
from hearth_backends.kv.joint import JointStore
from hearth_backends.weights.spec import ModelSpec
from hearthd import wire
from hearthd.engine import tool_format
from hearthd.engine.core import EngineCore
from hearthd.engine.drafting.opening import open_gate, open_model
from hearthd.engine.load_plan import LoadPlan, PlannedStage
from hearthd.engine.pipeline import Pipeline
from hearthd.engine.prefixes.opening import open_tiers
from hearthd.engine.scheduler import Scheduler
from hearthd.engine.stages.order import StageOrder
from hearthd.engine.stages.remote import load_remote

Grant = Callable[[wire.LeaseRequest], int]
"""Asks the ledger and returns the lease's number, or raises."""


def execute_load(
    plan: LoadPlan,
    load: wire.Load,
    grant: Grant,
    progress: Callable[[float], None],
    begin: Callable[[str], None] = lambda device: None,
) -> EngineCore:
    """Take the leases, load the stages, put the engine together; the caller closes `core.pipeline`.

    `begin` hears of each device before a stage is loaded on it.
    Raises what `Backend.load` raises, and what `grant` raises.
    """
    plans = [plan] if plan.draft is None else [plan, plan.draft]
    parts = [
        (each, stage, tuple(leases[device] for device in stage.leased_on))
        for each, leases in [(each, _leases(each, grant)) for each in plans]
        for stage in each.stages
    ]
    stages: list[Stage] = []
    try:
        for i, (each, stage, leased) in enumerate(parts):
            begin(stage.leased_on[0])
            stages.append(
                load_stage(each.model.spec, stage, leased, _part_of(progress, i, len(parts)))
            )
            load_adapters(stages[-1], each, leased[0])
        n_own = len(plan.stages)
        return assemble(plan, stages[:n_own], load, draft_stages=stages[n_own:])
    except BaseException:
        for loaded in stages:
            loaded.close()
        raise


def load_stage(
    model: ModelSpec, planned: PlannedStage, leases: tuple[Lease, ...], progress: Progress
) -> Stage:
    """A stage in this process, or in one of its own; raises what `Backend.load` raises."""
    backend, spec, devices = planned.backend, planned.spec, planned.devices
    if not planned.own_process:
        return backend.load(model, spec, devices, leases, progress)
    order = StageOrder(backend.name, model, spec, devices, leases, planned.config.cpus)
    return load_remote(order, progress)


def load_adapters(stage: Stage, plan: LoadPlan, lease: Lease) -> None:
    """Give a stage all adapters of its model; raises what `Stage.load_adapter` raises."""
    for number, adapter in enumerate(plan.adapters.values(), 1):
        stage.load_adapter(number, adapter.path, lease)


def _leases(plan: LoadPlan, grant: Grant) -> dict[str, Lease]:
    """By device; raises what `grant` raises."""
    leases: dict[str, Lease] = {}
    for request in plan.lease_requests():
        need = Bytes(request.weights_bytes, request.kv_bytes, request.workspace_bytes)
        leases[request.device] = Lease(grant(request), request.device, need)
    return leases


def assemble(
    plan: LoadPlan, stages: Sequence[Stage], load: wire.Load, draft_stages: Sequence[Stage] = ()
) -> EngineCore:
    """An engine around loaded stages; raises Unsupported where a draft model cannot guess for them."""
    store = _store(plan)
    # Guesses need to know the last token; who names a draft model wants those more than steps that overlap.
    pipeline = Pipeline(stages, runs_ahead=plan.draft is None)
    draft = None
    if plan.draft is not None:
        draft = open_model(
            Pipeline(draft_stages),
            _store(plan.draft),
            plan.draft.room,
            n_rows=plan.draft.stages[0].spec.n_rows,
            models=(plan.model, plan.draft.model),
        )
    gate = open_gate(pipeline.caps, draft, plan.draft_name, lookup=load.lookup)
    scheduler = Scheduler(
        store,
        pipeline.caps,
        n_seq=plan.concurrency,
        step_tokens=load.step_tokens,
        n_batches=pipeline.n_batches,
        itl_target_seconds=load.itl_target_seconds,
        aging_seconds=load.aging_seconds,
        has_adapters=bool(plan.adapters),
    )
    if gate is not None:
        scheduler.draft_with(gate)
    prefixes = open_tiers(
        load,
        store,
        pipeline,
        digest=plan.model.spec.digest,
        context=plan.room.context,
        ram_bytes=plan.prefix_ram_bytes,
    )
    return EngineCore(
        plan.model, pipeline, store, scheduler, context=plan.room.context, prefixes=prefixes
    )


def _store(plan: LoadPlan) -> KVStore:
    """Of all its stages."""
    stores = [stage.backend.store(plan.model.spec, stage.spec) for stage in plan.stages]
    return stores[0] if len(stores) == 1 else JointStore(stores)


def model_info(plan: LoadPlan, stages: Sequence[Stage]) -> wire.ModelInfo:
    """The loaded model as clients see it."""
    spec = plan.model.spec
    peaks = [stage.peak_bytes for stage in stages if stage.peak_bytes is not None]
    return wire.ModelInfo(
        digest=spec.digest,
        architecture=spec.architecture,
        quantization=spec.quantization,
        n_parameters=spec.n_parameters,
        n_vocab=spec.n_vocab,
        n_layers=spec.n_layers,
        context=plan.room.context,
        concurrency=plan.concurrency,
        kv_tokens=plan.room.kv_tokens,
        backend="+".join(dict.fromkeys(stage.backend.name for stage in plan.stages)),
        stages=[stage.config for stage in plan.stages],
        has_chat_template=spec.chat_template is not None,
        tool_format=tool_format.detect(spec.chat_template),
        draft=plan.draft_name,
        adapters={name: adapter.digest for name, adapter in plan.adapters.items()},
        weights_bytes=sum(request.weights_bytes for request in plan.lease_requests()),
        rss_bytes=psutil.Process().memory_info().rss,
        device_peak_bytes=sum(peaks) if peaks else None,
    )


def _part_of(progress: Callable[[float], None], i: int, n_parts: int) -> Callable[[float], None]:
    """The progress of part i as progress of the whole."""
    return lambda fraction: progress((i + fraction) / n_parts)
