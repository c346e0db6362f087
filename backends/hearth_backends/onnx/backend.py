"""OnnxBackend: decoders on ONNX Runtime's CPU provider, whole models and layer ranges; and encoders."""

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
from hearth_backends.onnx.loading import is_whole, load_parts
from hearth_backends.onnx.memory import estimate_bytes, n_wanted
from hearth_backends.onnx.observing import observe
from hearth_backends.onnx.recipe import model_support
from hearth_backends.onnx.stage import NAME, OnnxStage
from hearth_backends.processor import processor
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.spec import ModelSpec

KV_DTYPES = ("f16", "f32", "q8_0")
"""f16 and f32 are kept as float32 (float16 where the weights are): the CPU's kernels for halves are slow.
q8_0 is 8-bit integers with a scale for each channel."""

_OTHERS = {
    "CUDAExecutionProvider": ("cuda", "gpu"),
    "ROCMExecutionProvider": ("rocm", "gpu"),
    "MIGraphXExecutionProvider": ("migraphx", "gpu"),
    "DmlExecutionProvider": ("dml", "gpu"),
    "WebGpuExecutionProvider": ("webgpu", "gpu"),
    "OpenVINOExecutionProvider": ("openvino", "npu"),
    "QNNExecutionProvider": ("qnn", "npu"),
    "VitisAIExecutionProvider": ("vitisai", "npu"),
    "CoreMLExecutionProvider": ("coreml", "npu"),
}
"""Providers that are named where the installed package has them, and not used yet."""
_VENDORS = {
    "cuda": "nvidia", "rocm": "amd", "migraphx": "amd", "openvino": "intel", "qnn": "qualcomm",
    "vitisai": "amd", "coreml": "apple",
}  # fmt: skip


class OnnxBackend(Backend):
    """One session a stage, rows of key-value memory side by side in one buffer."""

    name = NAME

    def devices(self) -> list[DeviceInfo]:
        """The CPU, and what else the installed package has providers for."""
        return [processor(), *(_other(name) for name in session.providers() if name in _OTHERS)]

    def version(self) -> str:
        """Of ONNX Runtime."""
        return f"onnxruntime {session.VERSION}"

    def weight_kinds(self) -> tuple[str, ...]:
        """Those of `kinds`."""
        return kinds.KINDS

    def supports(self, model: ModelSpec, device: DeviceInfo) -> Support:
        """Whether a graph can be built for the model, and the device is one that was tried."""
        if device.kind != "cpu":
            return _untried(device)
        return model_support(model)

    def estimate(self, model: ModelSpec, spec: StageSpec, device: DeviceInfo) -> Bytes:
        """Weights and key-value memory nearly to the byte, workspace about."""
        return estimate_bytes(model, spec)

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
        _refuse(model, spec)
        parts = load_parts(model, spec, progress)
        caps = Capabilities(max_wants=n_wanted(spec) if spec.head else None)
        progress(1.0)
        return OnnxStage(spec, caps, parts)

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
            return _untried(device)
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


def _untried(device: DeviceInfo) -> Support:
    return Support(False, f"it runs on the CPU; its provider for {device.name} has not been tried")


def _other(provider: str) -> DeviceInfo:
    name, kind = _OTHERS[provider]
    return DeviceInfo(
        name=f"{name}:0",
        kind="gpu" if kind == "gpu" else "npu",
        description=f"{provider} (untested)",
        total_bytes=None,
        free_bytes=None,
        vendor=_VENDORS.get(name),
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
