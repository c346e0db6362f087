"""Probe: what the backends know of this machine and of models, as JSON, asked of a child process."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from hearth_backends import registry
from hearth_backends.base import Backend, DeviceInfo, LoadedModel, StageSpec, Support
from hearth_backends.encoder import EncoderSpec, Task
from hearth_backends.errors import BackendError, Unsupported
from hearth_backends.weights.spec import ModelSpec
from hearthd.engine.encoding.task import choose_encoding

EMBEDDING = "model.embed_tokens.weight"
ESTIMATED_TOKENS = 4096
"""Of key-value memory, in the smaller of two estimates."""


def probe(paths: list[str]) -> bytes:
    """Devices of every backend, and for each model its facts and who supports it where."""
    backends, absent = _backends()
    report: dict[str, Any] = {
        "backends": {
            name: [_plain(device) for device in backend.devices()]
            for name, backend in backends.items()
        },
        "versions": {name: backend.version() for name, backend in backends.items()},
        "absent": absent,
        "models": {path: _model(path, backends) for path in paths},
    }
    return msgspec.json.format(msgspec.json.encode(report), indent=2)


def _backends() -> tuple[dict[str, Backend], dict[str, str]]:
    found: dict[str, Backend] = {}
    absent: dict[str, str] = {}
    for name in registry.BACKENDS:
        try:
            found[name] = registry.backend(name)
        except BackendError as error:
            absent[name] = str(error)
    return found, absent


def _model(path: str, backends: dict[str, Backend]) -> dict[str, Any]:
    try:
        model = registry.open_model(path)
    except BackendError as error:
        return {"error": {"code": error.code, "message": str(error)}}
    spec = model.spec
    return {
        "name": spec.name,
        "digest": spec.digest,
        "architecture": spec.architecture,
        "task": _task(spec),
        "quantization": spec.quantization,
        "n_parameters": spec.n_parameters,
        "n_layers": spec.n_layers,
        "context_trained": spec.context_trained,
        "layer_bytes": [spec.layer_bytes(i, i + 1) for i in range(spec.n_layers)],
        "outer_bytes": spec.outer_bytes(),
        "support": _support(model, backends),
        "shape": _shape(spec),
        "estimates": _estimates(model, backends),
    }


def _shape(spec: ModelSpec) -> dict[str, Any]:
    """What the planner has to know beside the layers' bytes; of the final norm, the head's."""
    embedding = spec.tensors.get(EMBEDDING)
    embedding_bytes = embedding.n_bytes if embedding is not None else 0
    head_bytes = spec.outer_bytes() - (0 if spec.tied_embeddings else embedding_bytes)
    parameters = [0] * spec.n_layers
    for tensor in spec.tensors.values():
        if tensor.layer is not None:
            parameters[tensor.layer] += math.prod(tensor.shape)
    return {
        "layer_parameters": parameters,
        "embedding_bytes": embedding_bytes,
        "head_bytes": head_bytes,
        "head_parameters": spec.n_vocab * spec.d_model,
        "d_model": spec.d_model,
        "tied": spec.tied_embeddings,
    }


def _estimates(model: LoadedModel, backends: dict[str, Backend]) -> dict[str, dict[str, Any]]:
    """By backend and device that support it: bytes of the whole model, and of each token more."""
    if _task(model.spec) != "generate":
        return {}
    return {
        name: {
            device.name: _estimate(model.spec, backend, device)
            for device in backend.devices()
            if backend.supports(model.spec, device).ok
        }
        for name, backend in backends.items()
        if name in registry.candidates(model)
    }


def _estimate(spec: ModelSpec, backend: Backend, device: DeviceInfo) -> dict[str, Any]:
    few, many = (backend.estimate(spec, _whole(spec, n * ESTIMATED_TOKENS), device) for n in (1, 2))
    return {
        "weights_bytes": few.weights,
        "kv_bytes_per_token": (many.kv - few.kv) / ESTIMATED_TOKENS,
        "workspace_bytes": many.workspace,
    }


def _whole(spec: ModelSpec, n_tokens: int) -> StageSpec:
    return StageSpec(
        first=0, last=spec.n_layers, embed=True, head=True, n_seq=1, n_ctx=n_tokens, n_rows=512,
        kv_tokens=n_tokens, kv_dtype="f16", weight_kind="file", threads=1,
    )  # fmt: skip


def _task(spec: ModelSpec) -> Task:
    """What the model is loaded for where nobody says otherwise."""
    try:
        encoding = choose_encoding(spec)
    except Unsupported:
        return "embed"  # once somebody says how it pools
    return "generate" if encoding is None else encoding.task


def _supports(backend: Backend, spec: ModelSpec, device: DeviceInfo) -> Support:
    """For the model's own task."""
    task = _task(spec)
    if task == "generate":
        return backend.supports(spec, device)
    pooling, n = spec.encoding.pooling or "mean", spec.context_trained
    wanted = EncoderSpec(task, pooling, n_ctx=n, n_rows=n, n_texts=1, threads=1)
    return backend.encoder_support(spec, wanted, device)


def _support(model: LoadedModel, backends: dict[str, Backend]) -> dict[str, dict[str, str]]:
    """Backend and device to "yes", or the reason why not."""
    return {
        name: {
            device.name: "yes" if (s := _supports(backend, model.spec, device)).ok else s.reason
            for device in backend.devices()
        }
        for name, backend in backends.items()
        if name in registry.candidates(model)
    }


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value)
