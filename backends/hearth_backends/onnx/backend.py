"""OnnxBackend: decoders on ONNX Runtime's CPU provider, whole models and layer ranges."""

from __future__ import annotations

import os
import platform

import numpy as np
import psutil

from hearth_backends.base import (
    I32,
    Backend,
    Bytes,
    Capabilities,
    DeviceInfo,
    Hidden,
    KVStore,
    Lease,
    Progress,
    Stage,
    StageSpec,
    Support,
)
from hearth_backends.errors import BackendError, OutOfMemory, StepError, Unsupported
from hearth_backends.kv.slots import SlotStore
from hearth_backends.onnx import kinds, session
from hearth_backends.onnx.decoder import build_decoder
from hearth_backends.onnx.memory import estimate_bytes, n_wanted, packed_bytes
from hearth_backends.onnx.packing import default_folder, pack
from hearth_backends.onnx.recipe import head_matrix, model_support, padded_head_dim
from hearth_backends.onnx.runner import Runner, Widths
from hearth_backends.onnx.slots import Slots
from hearth_backends.onnx.stage import NAME, Embed, OnnxStage, Parts
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.spec import ModelSpec

KV_DTYPES = ("f16", "f32")
"""Both are kept as float32 (float16 where the weights are): the CPU's kernels for halves are slow."""

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
        memory = psutil.virtual_memory()
        cpu = DeviceInfo(
            name="cpu:0",
            kind="cpu",
            description=platform.processor() or platform.machine(),
            total_bytes=memory.total,
            free_bytes=memory.available,
            cores=psutil.cpu_count(logical=False),
        )
        return [cpu, *(_other(name) for name in session.providers() if name in _OTHERS)]

    def supports(self, model: ModelSpec, device: DeviceInfo) -> Support:
        """Whether a graph can be built for the model, and the device is one that was tried."""
        if device.kind != "cpu":
            return Support(
                False, f"it runs on the CPU; its provider for {device.name} has not been tried"
            )
        return model_support(model)

    def estimate(self, model: ModelSpec, spec: StageSpec, device: DeviceInfo) -> Bytes:
        """Weights and key-value memory nearly to the byte, workspace about."""
        return estimate_bytes(model, spec)

    def store(self, model: ModelSpec, spec: StageSpec) -> KVStore:
        """Slots."""
        return SlotStore(spec.n_seq, spec.n_ctx)

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
        reader = open_reader(model)
        slots = _make_slots(model, spec)
        runner = _make_runner(reader, spec, slots, progress)
        try:
            _warm_up(runner, model, spec)
        except BaseException:
            runner.close()
            raise
        caps = Capabilities(max_wants=n_wanted(spec) if spec.head else None)
        embed = _embedder(reader, spec) if spec.embed else None
        parts = Parts(runner, slots, model.digest, model.d_model, model.n_vocab, embed)
        progress(1.0)
        return OnnxStage(spec, caps, parts)


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


# --- loading -----------------------------------------------------------------------------------

BYTES_PER_THREAD = 8 << 20
"""Weights that keep one thread busy for a step; with fewer, threads mostly wait for each other."""


def useful_threads(model: ModelSpec, spec: StageSpec) -> int:
    """The threads asked for, or as many as the weights of the range keep busy."""
    return max(1, min(spec.threads, packed_bytes(model, spec) // BYTES_PER_THREAD))


def _kv_type(spec: StageSpec) -> np.dtype[np.floating]:
    return np.dtype(np.float16 if spec.weight_kind == "fp16" else np.float32)


def _make_slots(model: ModelSpec, spec: StageSpec) -> Slots:
    try:
        return Slots(
            n_layers=spec.last - spec.first,
            n_slots=spec.n_seq,
            n_heads=model.n_kv_heads,
            room=spec.n_ctx,
            head_dim=padded_head_dim(model),
            dtype=_kv_type(spec),
        )
    except MemoryError as error:
        raise OutOfMemory(f"no memory for keys and values: {error}") from error


def _make_runner(reader: TensorReader, spec: StageSpec, slots: Slots, progress: Progress) -> Runner:
    model = reader.spec
    graph = build_decoder(model, spec, reader.variant(spec.n_ctx), _kv_type(spec))
    fingerprint = f"{model.digest} {spec.weight_kind}"
    weights = pack(graph.bundles, reader, default_folder(os.environ), fingerprint, progress)
    opened = session.Session(graph, weights, session.CPU, useful_threads(model, spec))
    n_heads = model.n_heads + 2 * model.n_kv_heads
    widths = Widths(
        d_model=model.d_model,
        qkv=n_heads * padded_head_dim(model),
        n_out=head_matrix(model).n_out if spec.head else model.d_model,
        layers=tuple(range(spec.first, spec.last)),
        has_head=spec.head,
    )
    return Runner(opened, slots, widths)


def _embedder(reader: TensorReader, spec: StageSpec) -> Embed:
    """Looks tokens up in the mapped file."""
    n_vocab = reader.spec.n_vocab
    scale = np.float32(reader.variant(spec.n_ctx).token_scale)

    def embed(tokens: I32) -> Hidden:
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < n_vocab:
            raise StepError(f"a token that is not one of {n_vocab}")
        rows = reader.rows("model.embed_tokens.weight", tokens)
        return rows if scale == 1 else rows * scale

    return embed


def _warm_up(runner: Runner, model: ModelSpec, spec: StageSpec) -> None:
    """One run, then forgotten: the first page faults are paid here, and results are numbers.

    Raises BackendError where they are not.
    """
    n = min(2, spec.n_rows, spec.n_ctx)
    x = np.ones((n, model.d_model), np.float32)
    out = runner.run(0, n, [0], x, np.array([n - 1]))
    if not np.isfinite(out).all():
        raise BackendError(f"what comes out of {model.name} is not a number")
