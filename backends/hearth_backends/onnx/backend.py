"""OnnxBackend: decoders on ONNX Runtime, whole models and layer ranges, built here or elsewhere; and encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from hearth_backends.base import (
    F32,
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
from hearth_backends.errors import Unsupported
from hearth_backends.kv.contract import KVStore
from hearth_backends.kv.slots import SlotStore
from hearth_backends.onnx import kinds, session
from hearth_backends.onnx.encoder import encoder_support, estimate_encoder_bytes, load_onnx_encoder
from hearth_backends.onnx.foreign.loading import (
    estimate_foreign_bytes,
    foreign_support,
    is_foreign,
    load_foreign,
)
from hearth_backends.onnx.loading import is_whole, load_parts
from hearth_backends.onnx.memory import estimate_bytes, n_wanted
from hearth_backends.onnx.observing import observe
from hearth_backends.onnx.providers import Providers
from hearth_backends.onnx.recipe import model_support
from hearth_backends.onnx.stage import NAME, OnnxStage, Parts
from hearth_backends.processor import processor
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.spec import ModelSpec

KV_DTYPES = ("f16", "f32", "q8_0")
"""f16 and f32 are kept as float32 (float16 where the weights are): the CPU's kernels for halves are slow.
q8_0 is 8-bit integers with a scale for each channel."""


class OnnxBackend(Backend):
    """One session a stage, rows of key-value memory side by side in one buffer."""

    name = NAME

    def __init__(self, providers: Providers | None = None) -> None:
        """`providers`: others than the installed package's."""
        self._providers = providers or Providers(session.providers, session.start)

    def devices(self) -> list[DeviceInfo]:
        """The CPU, and what else the installed package has providers for."""
        return [processor(), *self._providers.devices()]

    def version(self) -> str:
        """Of ONNX Runtime."""
        return f"onnxruntime {session.VERSION}"

    def weight_kinds(self) -> tuple[str, ...]:
        """Those of `kinds`."""
        return kinds.KINDS

    def supports(self, model: ModelSpec, device: DeviceInfo) -> Support:
        """Whether a graph can be built for the model, or there is one, and the device's provider starts."""
        if is_foreign(model):
            return self._providers.support(device)
        return _here_only(device) if device.kind != "cpu" else model_support(model)

    def estimate(self, model: ModelSpec, spec: StageSpec, device: DeviceInfo) -> Bytes:
        """Weights and key-value memory nearly to the byte, workspace about."""
        return (estimate_foreign_bytes if is_foreign(model) else estimate_bytes)(model, spec)

    def store(self, model: ModelSpec, spec: StageSpec) -> KVStore:
        """Slots."""
        return SlotStore(spec.n_seq, spec.n_ctx)

    def open_adapter(self, model: ModelSpec, spec: StageSpec, path: Path) -> AdapterSpec:
        """Refused: graphs have the model's own weights only."""
        raise Unsupported(
            f'{path}: backend {NAME} loads no adapters; backend = "gguf" does, with a GGUF file of the model'
        )

    def load(
        self,
        model: ModelSpec,
        spec: StageSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Stage:
        """Build the graph, pack the weights or map what was packed before, and compute one step."""
        if is_foreign(model):
            parts = self._load_foreign(model, spec, devices[0], progress)
        else:
            _refuse(model, spec)
            parts = load_parts(model, spec, progress)
        caps = Capabilities(max_wants=n_wanted(spec) if spec.head else None)
        progress(1.0)
        return OnnxStage(spec, caps, parts)

    def _load_foreign(
        self, model: ModelSpec, spec: StageSpec, device: DeviceInfo, progress: Progress
    ) -> Parts:
        for support in (self._providers.support(device), foreign_support(model, spec)):
            if not support.ok:
                raise Unsupported(f"backend {NAME}: {support.reason}")
        found = self._providers.of(device.name)
        return load_foreign(
            model,
            spec,
            progress,
            provider=session.CPU if found is None else found.provider,
            on_host=found is None,
            compiles=found is not None and found.compiles,
        )

    def layer_inputs(
        self, model: ModelSpec, texts: Sequence[Sequence[int]], threads: int
    ) -> Iterator[Mapping[str, F32]]:
        """In float32, one layer in memory at a time."""
        support = model_support(model)
        if not support.ok:
            raise Unsupported(f"backend {NAME}: {support.reason}")
        tokens = [np.array(text, np.int32) for text in texts]
        seen = observe(open_reader(model), tokens, threads)
        return (found.by_tensor(layer) for layer, found in enumerate(seen))

    def encoder_support(self, model: ModelSpec, spec: EncoderSpec, device: DeviceInfo) -> Support:
        """Whether it encodes with the model."""
        if device.kind != "cpu":
            return _here_only(device)
        return encoder_support(model, spec)

    def estimate_encoder(self, model: ModelSpec, spec: EncoderSpec, device: DeviceInfo) -> Bytes:
        """About; of a file made elsewhere nobody knows what it computes."""
        return estimate_encoder_bytes(model, spec)

    def load_encoder(
        self,
        model: ModelSpec,
        spec: EncoderSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Encoder:
        """Open the file, or build the graph, and encode one text for warmth."""
        return load_onnx_encoder(model, spec, progress)


def _here_only(device: DeviceInfo) -> Support:
    return Support(
        False,
        f"graphs that are built here, and encoders, run on the CPU; on {device.name} run decoders in ONNX files",
    )


def _refuse(model: ModelSpec, spec: StageSpec) -> None:
    """Raise Unsupported for what this backend cannot load."""
    for support in (model_support(model), kinds.support(spec.weight_kind)):
        if not support.ok:
            raise Unsupported(f"backend {NAME}: {support.reason}")
    if spec.kv_dtype not in KV_DTYPES:
        raise Unsupported(
            f"backend {NAME} keeps keys and values in {', '.join(KV_DTYPES)}, not {spec.kv_dtype}"
        )
    if not 0 <= spec.first < spec.last <= model.n_layers:
        raise Unsupported(f"layers {spec.first} to {spec.last} of {model.n_layers}")
    if spec.kv_dtype == "q8_0" and not is_whole(model, spec):
        raise Unsupported(
            f"backend {NAME}: the scales of 8-bit keys and values are found by letting the whole model "
            "write, and this is a part of one"
        )
    if len(kinds.phases(spec.weight_kind)) > 1 and not is_whole(model, spec):
        raise Unsupported(
            f"backend {NAME}: weights {spec.weight_kind} tell prompts from what is decoded, which only "
            "the last of several stages knows"
        )
    if spec.kv_dtype == "q8_0" and spec.weight_kind == "fp16":
        raise Unsupported(f"backend {NAME}: kv_dtype q8_0 does not go with weights fp16")
