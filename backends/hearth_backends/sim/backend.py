"""SimBackend: the simulated model behind the contract that every backend keeps."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import psutil

from hearth_backends.base import (
    AdapterSpec,
    Backend,
    Bytes,
    Capabilities,
    DeviceInfo,
    Lease,
    Progress,
    Stage,
    StageSpec,
    Support,
)
from hearth_backends.encoder import Encoder, EncoderSpec
from hearth_backends.errors import ModelFileError
from hearth_backends.kv.blocks import PagedStore
from hearth_backends.kv.cells import CellStore
from hearth_backends.kv.contract import BLOCK_TOKENS, KVStore
from hearth_backends.kv.slots import SlotStore
from hearth_backends.kv.states import StateStore
from hearth_backends.sim.clock import SimClock
from hearth_backends.sim.encoder import SimEncoder
from hearth_backends.sim.memory import BlockMemory, CellMemory, Memory, SlotMemory, StateMemory
from hearth_backends.sim.options import SimOptions, parse_options
from hearth_backends.sim.stage import SimStage
from hearth_backends.weights.spec import ModelSpec

_N_PROGRESS = 20
ADAPTER_BYTES = 1 << 14


class SimBackend(Backend):
    """Runs "sim:" models; every option that changes how is in the model's name."""

    name = "sim"

    def __init__(self, clock: SimClock | None = None) -> None:
        """`clock`: virtual time that each step moves on."""
        self._clock = clock

    def devices(self) -> list[DeviceInfo]:
        memory = psutil.virtual_memory()
        cores = psutil.cpu_count(logical=False)
        return [
            DeviceInfo("cpu:0", "cpu", "simulated", memory.total, memory.available, cores),
            DeviceInfo("cpu:1", "cpu", "simulated", memory.total, memory.available, cores),
        ]

    def supports(self, model: ModelSpec, device: DeviceInfo) -> Support:
        if model.format != "sim":
            return Support(False, "the simulated backend runs only models called sim:...")
        if not model.encoding.generates:
            return Support(False, f"it was told to {parse_options(model.name).task}")
        return Support(True)

    def encoder_support(self, model: ModelSpec, spec: EncoderSpec, device: DeviceInfo) -> Support:
        if model.format != "sim":
            return Support(False, "the simulated backend runs only models called sim:...")
        return Support(True)

    def load_encoder(
        self,
        model: ModelSpec,
        spec: EncoderSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Encoder:
        options = parse_options(model.name)
        _pretend_to_load(model, options, progress)
        return SimEncoder(spec, options)

    def estimate(self, model: ModelSpec, spec: StageSpec, device: DeviceInfo) -> Bytes:
        n_layers = spec.last - spec.first
        outer = model.outer_bytes() // 2
        weights = model.layer_bytes(spec.first, spec.last) + outer * (spec.embed + spec.head)
        return Bytes(
            weights=weights,
            kv=spec.kv_tokens * (8 * n_layers + 4),
            workspace=spec.n_rows * 4 * model.n_vocab,
        )

    def store(self, model: ModelSpec, spec: StageSpec) -> KVStore:
        options = parse_options(model.name)
        match options.variant:
            case "blocks":
                return PagedStore(spec.n_seq, _n_blocks(spec), spec.n_ctx)
            case "slots":
                return SlotStore(spec.n_seq, spec.n_ctx)
            case "cells":
                return CellStore(spec.n_seq, spec.kv_tokens, spec.n_ctx)
            case _:
                return StateStore(spec.n_seq, spec.n_ctx, options.states)

    def open_adapter(self, model: ModelSpec, spec: StageSpec, path: Path) -> AdapterSpec:
        """Any path is an adapter: its name says what it does."""
        digest = hashlib.sha256(str(path).encode()).hexdigest()
        return AdapterSpec(path, digest, ADAPTER_BYTES)

    def load(
        self,
        model: ModelSpec,
        spec: StageSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Stage:
        options = parse_options(model.name)
        if options.die_on in [device.name for device in devices]:
            os.kill(os.getpid(), signal.SIGKILL)
        _pretend_to_load(model, options, progress)
        return SimStage(
            spec,
            _capabilities(options),
            options,
            _memory(options, spec),
            digest=model.digest,
            clock=self._clock,
        )


def _pretend_to_load(model: ModelSpec, options: SimOptions, progress: Progress) -> None:
    """Take the time, and fail where that is asked for."""
    for i in range(_N_PROGRESS if options.load_seconds else 0):
        time.sleep(options.load_seconds / _N_PROGRESS)
        progress((i + 1) / _N_PROGRESS)
    progress(1.0)
    if options.fail_load:
        raise ModelFileError(f"{model.name}: {options.fail_load}")


def _capabilities(options: SimOptions) -> Capabilities:
    return Capabilities(
        mixed=options.is_mixed,
        ragged=options.is_mixed,
        max_prefill_seqs=None if options.is_mixed else 1,
        async_depth=options.depth,
        rollback="checkpoint" if options.variant == "states" else "any",
        max_wants=options.wants or None,
        saturating_rows=options.saturating or None,
        adapters_per_batch=options.adapters or None,
    )


def _n_blocks(spec: StageSpec) -> int:
    """Blocks of a paged stage, the null block among them."""
    return spec.kv_tokens // BLOCK_TOKENS + 1


def _memory(options: SimOptions, spec: StageSpec) -> Memory:
    match options.variant:
        case "blocks":
            return BlockMemory(spec, _n_blocks(spec))
        case "slots":
            return SlotMemory(spec)
        case "cells":
            return CellMemory(spec, spec.kv_tokens)
        case _:
            return StateMemory(spec)
