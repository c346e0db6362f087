"""What is known of each model without asking anybody: values for /v1/models, /readyz and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hearthd import wire
from hearthd.placement.placement import Placement

ModelState: TypeAlias = Literal[
    "loading", "ready", "failed", "restarting", "drained", "unloading", "unloaded"
]
"""The last three are an operator's doing."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model at one moment; None means unknown."""

    name: str
    path: str
    state: ModelState
    phase: str | None  # of the load: "starting" | "reading" | "loading" | "warming"
    progress: float | None  # of the phase, 0 to 1
    error: str | None  # why it failed, why its last engine was lost, or why a ready one is silent
    error_code: str | None
    info: wire.ModelInfo | None
    created: int  # unix seconds; when the alias was configured
    n_running: int
    n_waiting: int
    kv_tokens_free: int | None
    pid: int | None
    n_restarts: int
    engine_rss_bytes: int | None
    answers: bool = False  # ready, and lately shown to be by a token or other work
    beat: wire.Beat | None = None  # the latest
    pinned: bool = False  # never unloaded
    adapters: Mapping[str, str] = field(default_factory=dict)  # names to paths
    adapter: str | None = None  # the one of them that was asked for
    placements: tuple[Placement, ...] = ()  # of its copies
    setbacks: tuple[str, ...] = ()  # where it could not be loaded, and why


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether every model that is configured serves; where one has failed, the others still do."""

    ready: bool
    draining: bool
    models: tuple[ModelStatus, ...]
