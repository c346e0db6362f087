"""Loading an encoder: its room, its lease, and the engine around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from hearth_backends import registry
from hearth_backends.base import Backend, Bytes, DeviceInfo, Lease, LoadedModel
from hearth_backends.encoder import EncoderSpec
from hearth_backends.errors import Unsupported
from hearthd import wire
from hearthd.engine.encoding.core import EncodingCore
from hearthd.engine.encoding.intake import join_pairs
from hearthd.engine.encoding.queue import EncodingQueue
from hearthd.engine.encoding.task import Encoding
from hearthd.engine.quarantine import best_backend, check_quarantine

Grant = Callable[[wire.LeaseRequest], int]

BATCH_TEXTS = 64
"""Texts of one batch, where not more are asked for: as many short ones as fill it."""
MOST_CONTEXT = 8192
"""Tokens of one text unasked; what a batch needs grows with the square of them."""
LEAST_CONTEXT = 512
"""A context that nobody asked for is not halved below this."""
WORKSPACE_SHARE = 0.5
"""Of the budget left beside the weights, what a batch may take unasked."""


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """A model, where it is to encode, and in what room."""

    model: LoadedModel
    backend: Backend
    device: DeviceInfo
    spec: EncoderSpec
    need: Bytes

    def lease_request(self) -> wire.LeaseRequest:
        """What the device has to give."""
        spec = self.spec
        return wire.LeaseRequest(
            device=self.device.name,
            weights_bytes=self.need.weights,
            kv_bytes=self.need.kv,
            workspace_bytes=self.need.workspace,
            explanation=f"{self.model.spec.name}: texts of {spec.n_ctx} tokens, {spec.n_rows} in a batch",
        )


def plan_encoder(load: wire.Load, model: LoadedModel, encoding: Encoding) -> EncoderPlan:
    """Decide the sizes; allocates nothing large. Raises Unsupported."""
    backend, device = _place(load, model)
    if load.draft is not None:
        raise Unsupported(f"{model.spec.name}: draft is for models that generate")
    if load.lora:
        raise Unsupported(f"{model.spec.name}: LoRA adapters are for models that generate")
    if encoding.task == "rerank" and join_pairs(model) is None:
        raise Unsupported(
            f"the file of {model.spec.name} says neither how a query and a document are put together "
            "(tokenizer.chat_template.rerank) nor what stands between them"
        )

    def spec_for(context: int) -> EncoderSpec:
        return EncoderSpec(
            task=encoding.task,
            pooling=encoding.pooling,
            n_ctx=context,
            n_rows=max(load.step_tokens, context),
            n_texts=max(load.concurrency, BATCH_TEXTS),
            threads=load.threads or psutil.cpu_count(logical=False) or 1,
            kv_dtype=load.kv_dtype,
            weight_kind=load.weights,
        )

    def need_for(context: int) -> Bytes:
        return backend.estimate_encoder(model.spec, spec_for(context), device)

    trained = model.spec.context_trained
    if load.context is not None and load.context > trained:
        raise Unsupported(
            f"context = {load.context}, but the model was trained for {trained} tokens"
        )
    context = load.context or context_that_fits(trained, load.budget_bytes, need_for)
    spec = spec_for(context)
    support = backend.encoder_support(model.spec, spec, device)
    if not support.ok:
        raise Unsupported(f"backend {backend.name} on {device.name}: {support.reason}")
    return EncoderPlan(model, backend, device, spec, need_for(context))


def context_that_fits(
    trained: int, budget_bytes: int | None, need_for: Callable[[int], Bytes]
) -> int:
    """The trained context, or what of it a fair share of the budget holds. Pure."""
    context = min(trained, MOST_CONTEXT)
    while budget_bytes is not None and context // 2 >= LEAST_CONTEXT:
        need = need_for(context)
        if need.kv + need.workspace <= (budget_bytes - need.weights) * WORKSPACE_SHARE:
            break
        context //= 2
    return context


def execute_encoder_load(
    plan: EncoderPlan, load: wire.Load, grant: Grant, progress: Callable[[float], None]
) -> EncodingCore:
    """Take the lease and load; the caller closes `core.encoder`.

    Raises what `Backend.load_encoder` raises, and what `grant` raises.
    """
    lease = Lease(grant(plan.lease_request()), plan.device.name, plan.need)
    encoder = plan.backend.load_encoder(
        plan.model.spec, plan.spec, (plan.device,), (lease,), progress
    )
    queue = EncodingQueue(
        batch_tokens=load.step_tokens,
        batch_texts=plan.spec.n_texts,
        aging_seconds=load.aging_seconds,
    )
    return EncodingCore(encoder, queue)


def encoder_info(plan: EncoderPlan, load: wire.Load, dim: int) -> wire.ModelInfo:
    """The loaded model as clients see it; `dim`: of a vector."""
    spec, config = plan.model.spec, plan.spec
    is_embedding = config.task == "embed"
    return wire.ModelInfo(
        digest=spec.digest,
        architecture=spec.architecture,
        quantization=spec.quantization,
        n_parameters=spec.n_parameters,
        n_vocab=spec.n_vocab,
        n_layers=spec.n_layers,
        context=config.n_ctx,
        concurrency=load.concurrency,
        kv_tokens=0,
        backend=plan.backend.name,
        stages=[wire.StageConfig(plan.backend.name, plan.device.name, (0, spec.n_layers))],
        has_chat_template=False,
        weights_bytes=plan.need.weights,
        rss_bytes=psutil.Process().memory_info().rss,
        task=config.task,
        embedding_size=dim if is_embedding else None,
        pooling=config.pooling if is_embedding else None,
    )


def _place(load: wire.Load, model: LoadedModel) -> tuple[Backend, DeviceInfo]:
    """The backend and the device; raises Unsupported."""
    name, wanted = best_backend(load, model), load.device
    if load.stages:
        only = load.stages[0]
        if len(load.stages) > 1 or only.layers not in (None, (0, model.spec.n_layers)):
            raise Unsupported("a model that encodes runs whole, on one device: stages cut it")
        name, wanted = only.backend, only.device
    if len(wire.device_names(wanted)) > 1:
        raise Unsupported(f"a model that encodes runs whole, on one device, not on {wanted}")
    check_quarantine(load, name, wanted)
    backend = registry.backend(name)
    devices = {device.name: device for device in backend.devices()}
    if wanted not in devices:
        raise Unsupported(f"backend {name} has no device {wanted!r}; it has {', '.join(devices)}")
    return backend, devices[wanted]
