"""What a box says to operators; None is what it did not say, or does not know."""

from __future__ import annotations

import msgspec

from hearth_tui.types import ModelDetails


class Stage(msgspec.Struct, frozen=True):
    """Layers of a model on one device; None is all of them."""

    device: str
    layers: tuple[int, int] | None = None
    backend: str | None = None


class WatchedDetails(ModelDetails, frozen=True):
    """What /v1/models says, with where the layers are."""

    path: str | None = None
    stages: tuple[Stage, ...] = ()
    n_layers: int | None = None
    weights_bytes: int | None = None


class DeviceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One device now."""

    name: str
    kind: str | None = None
    description: str | None = None
    state: str | None = None
    problem: str | None = None
    total_bytes: int | None = None
    used_bytes: int | None = None
    budget_bytes: int | None = None
    leased_bytes: int | None = None
    leases: dict[str, int] = {}
    utilization: float | None = None  # 0 to 1
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None


class WatchedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model now."""

    name: str
    pinned: bool = False
    answers: bool = False
    hearth: WatchedDetails = WatchedDetails()


class UnderWay(msgspec.Struct, frozen=True, kw_only=True, rename={"klass": "class"}):
    """One request that is not over."""

    number: int
    request_id: str = ""
    key: str = ""
    klass: str = ""
    model: str = ""
    asked: str = "text"
    running: bool = False
    n_prompt: int | None = None
    n_cached: int | None = None
    n_output: int = 0
    ttft_seconds: float | None = None
    tokens_per_second: float | None = None
    age_seconds: float = 0.0


class TopAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that the cache has often given."""

    key: str
    model: str = ""
    question: str | None = None
    hits: int = 0
    saved_seconds: float = 0.0


class CacheLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache did since the daemon started."""

    enabled: bool = False
    results: dict[str, int] = {}
    n_answers: int = 0
    n_bytes: int = 0
    budget_bytes: int = 0
    saved_seconds: float = 0.0
    saved_tokens: int = 0
    top: list[TopAnswer] = []


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to look at."""

    level: str
    kind: str = ""
    subject: str = ""
    message: str = ""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log."""

    number: int
    time: float  # unix seconds
    level: str = "info"
    logger: str = ""
    message: str = ""


class Top(msgspec.Struct, frozen=True, kw_only=True):
    """GET /api/v1/top"""

    version: str
    now: float  # unix seconds
    started: float
    draining: bool = False
    role: str = "readonly"
    devices: list[DeviceLoad] = []
    models: list[WatchedModel] = []
    n_requests: int = 0
    requests: list[UnderWay] = []
    n_output_tokens: int = 0
    n_prompt_tokens: int = 0
    cache: CacheLoad = CacheLoad()
    alerts: list[Alert] = []
    log: list[LogLine] | None = None

    @property
    def may_act(self) -> bool:
        """Whether the key that was shown is an operator's."""
        return self.role == "operator"


class RequestCounts(msgspec.Struct, frozen=True):
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of /v1/batches."""

    id: str
    status: str = ""
    endpoint: str = ""
    created_at: float | None = None  # unix seconds
    request_counts: RequestCounts | None = None


class BatchList(msgspec.Struct, frozen=True):
    """GET /v1/batches"""

    data: list[Batch]


class Operated(msgspec.Struct, frozen=True):
    """POST /api/v1/models/{name}/{operation}"""

    name: str
    state: str
    pinned: bool = False
