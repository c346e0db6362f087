"""StageOrder: what the process of a stage is told first, and what is said to it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hearth_backends.base import (
    Batch,
    Capabilities,
    DeviceInfo,
    Hidden,
    Lease,
    StageSpec,
)
from hearth_backends.kv.contract import Placement
from hearth_backends.weights.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class StageOrder:
    """A stage to be loaded."""

    backend: str
    model: ModelSpec
    spec: StageSpec
    devices: tuple[DeviceInfo, ...]
    leases: tuple[Lease, ...]
    cpus: tuple[int, ...] = ()  # the processors it keeps to; empty: all that the engine may use


@dataclass(frozen=True, slots=True)
class Compute:
    """A step; answered with what the stage returns."""

    batch: Batch
    x: Hidden | None


@dataclass(frozen=True, slots=True)
class Export:
    """Answered with bytes."""

    placement: Placement
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Answered with a number of tokens."""

    placement: Placement
    blob: bytes
    n_tokens: int | None


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    """Answered with nothing."""

    adapter: int
    path: Path
    lease: Lease


@dataclass(frozen=True, slots=True)
class Idle:
    """Answered with whether there is more to do at leisure."""


@dataclass(frozen=True, slots=True)
class AskPeak:
    """Answered with what the stage has held at most."""


Command: TypeAlias = Compute | Export | Restore | LoadAdapter | Idle | AskPeak


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the load is."""

    fraction: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The stage is there."""

    caps: Capabilities
    state_kind: str | None  # None: it exports no states
    n_bytes: int  # resident of its process


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command came to."""

    value: object = None
    error: Exception | None = None  # raised in its place
