"""GET /v1/models: what is served and in which state, from what hearthd knows; no engine is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import msgspec
from aiohttp import web

from hearthd import wire
from hearthd.api.authentication import PRINCIPAL
from hearthd.api.keys import SERVING
from hearthd.api.response import json_response
from hearthd.placement.placement import Origin, Placement
from hearthd.serving.principal import LOCAL
from hearthd.serving.status import ModelStatus


class Stage(msgspec.Struct, frozen=True):
    """Layers of the model on one device; null is all of them."""

    backend: str
    device: str
    layers: tuple[int, int] | None


class PlaceInForce(msgspec.Struct, frozen=True):
    """What one copy of the model has on a device; null is unknown, of layers: all."""

    device: str
    backend: str | None
    layers: tuple[int, int] | None
    planned_bytes: int | None


class PlanInForce(msgspec.Struct, frozen=True, kw_only=True):
    """Where one copy of the model is, and why."""

    origin: Origin
    why: str
    places: list[PlaceInForce]
    alone_tokens_per_second: float | None = None  # predicted; null: nothing was
    tokens_per_second: float | None = None


class ModelDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What OpenAI's shape has no place for; null is unknown."""

    state: str
    phase: str | None
    progress: float | None
    error: str | None
    error_code: str | None
    path: str
    kv_tokens_free: int | None
    engine_rss_bytes: int | None
    engine_pid: int | None
    n_running: int
    n_waiting: int
    n_restarts: int
    plans: list[PlanInForce] = []  # one for each copy that was placed
    setbacks: list[str] = []  # where it could not be loaded, and why

    # From here on: what the engine told of the loaded model.
    digest: str | None = None
    architecture: str | None = None
    quantization: str | None = None
    backend: str | None = None
    stages: list[Stage] = []
    context: int | None = None
    concurrency: int | None = None
    kv_tokens: int | None = None
    n_parameters: int | None = None
    n_layers: int | None = None
    n_vocab: int | None = None
    has_chat_template: bool | None = None
    tool_format: wire.ToolFormat | None = None
    weights_bytes: int | None = None
    device_peak_bytes: int | None = None  # that it held of GPUs at most while it loaded
    task: wire.Task | None = None
    embedding_size: int | None = None
    pooling: str | None = None
    draft: str | None = None

    # And what it has said since.
    draft_failure: str | None = None


_TOLD = tuple(
    name
    for name in ModelDetails.__struct_fields__
    if name in wire.ModelInfo.__struct_fields__ and name != "stages"
)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One entry in OpenAI's shape."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["hearth"] = "hearth"
    max_model_len: int | None  # vLLM's name of the context
    parent: str | None = None  # of a LoRA adapter: the id of the model it belongs to
    hearth: ModelDetails


class ModelList(msgspec.Struct, frozen=True):
    """All models."""

    data: list[Model]
    object: Literal["list"] = "list"


async def list_models(request: web.Request) -> web.Response:
    """Every model that the caller may use, each followed by its adapters, as configured."""
    principal = request.get(PRINCIPAL, LOCAL)
    models = [status for status in request.app[SERVING].models() if principal.may_use(status.name)]
    listed = [
        describe(replace(status, adapter=adapter))
        for status in models
        for adapter in (None, *status.adapters)
    ]
    return json_response(ModelList(listed))


async def get_model(request: web.Request) -> web.Response:
    """One model; raises ModelNotFound, Forbidden."""
    status = request.app[SERVING].model(request.match_info["name"])
    request.get(PRINCIPAL, LOCAL).check_use(status.name)
    return json_response(describe(status))


def describe(status: ModelStatus) -> Model:
    """A status as clients see it; of an adapter, where one was asked for."""
    info, adapter = status.info, status.adapter
    details = ModelDetails(
        state=status.state,
        phase=status.phase,
        progress=status.progress,
        error=status.error,
        error_code=status.error_code,
        path=status.path if adapter is None else status.adapters[adapter],
        kv_tokens_free=status.kv_tokens_free,
        engine_rss_bytes=status.engine_rss_bytes,
        engine_pid=status.pid,
        n_running=status.n_running,
        n_waiting=status.n_waiting,
        n_restarts=status.n_restarts,
        plans=[_plan(placement) for placement in status.placements],
        setbacks=list(status.setbacks),
        draft_failure=None if status.beat is None else status.beat.draft_failure,
        **_told(info),
    )
    return Model(
        id=status.name if adapter is None else f"{status.name}:{adapter}",
        parent=None if adapter is None else status.name,
        created=status.created,
        max_model_len=None if info is None else info.context,
        hearth=details,
    )


def _plan(placement: Placement) -> PlanInForce:
    found = placement.prediction
    return PlanInForce(
        origin=placement.origin,
        why=placement.why,
        places=[
            PlaceInForce(
                place.device,
                place.backend,
                place.layers,
                None if place.need is None else place.need.total_bytes,
            )
            for place in placement.places
        ],
        alone_tokens_per_second=None if found is None else found.alone_tokens_per_second,
        tokens_per_second=None if found is None else found.tokens_per_second,
    )


def _told(info: wire.ModelInfo | None) -> dict[str, Any]:
    """The fields that both structs have, once they are known."""
    if info is None:
        return {}
    told = {name: getattr(info, name) for name in _TOLD}
    stages = [Stage(stage.backend, stage.device, stage.layers) for stage in info.stages]
    return {**told, "stages": stages}
