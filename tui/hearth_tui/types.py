"""What goes over the wire, both ways; None is what the box did not say."""

from __future__ import annotations

import msgspec

# --- what the box has --------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True):
    """What one copy of a model has on a device."""

    device: str
    backend: str | None = None
    layers: tuple[int, int] | None = None  # [first, last); None: all
    planned_bytes: int | None = None


class PlanInForce(msgspec.Struct, frozen=True):
    """Where one copy of a model is, and why."""

    origin: str = ""
    why: str = ""
    places: list[Place] = []
    alone_tokens_per_second: float | None = None  # predicted
    tokens_per_second: float | None = None


class ModelDetails(msgspec.Struct, frozen=True):
    """What Hearth adds to an entry of /v1/models."""

    state: str | None = None  # "loading" | "ready" | "failed" | "restarting"
    phase: str | None = None
    progress: float | None = None  # 0 to 1
    error: str | None = None
    error_code: str | None = None
    digest: str | None = None
    architecture: str | None = None
    quantization: str | None = None
    n_parameters: int | None = None
    context: int | None = None  # tokens of one sequence
    concurrency: int | None = None  # sequences at once
    kv_tokens: int | None = None
    backend: str | None = None
    n_running: int | None = None
    n_waiting: int | None = None
    kv_tokens_free: int | None = None
    n_restarts: int | None = None
    plans: list[PlanInForce] = []  # one for each copy that was placed
    setbacks: list[str] = []  # where it could not be loaded, and why
    engine_pid: int | None = None
    engine_rss_bytes: int | None = None
    draft: str | None = None  # the model that guesses for it
    draft_failure: str | None = None


class Model(msgspec.Struct, frozen=True):
    """One entry of /v1/models."""

    id: str
    object: str = "model"
    created: int | None = None
    owned_by: str | None = None
    parent: str | None = None  # of a LoRA adapter: the model it belongs to
    hearth: ModelDetails = ModelDetails()


class ModelList(msgspec.Struct, frozen=True):
    """GET /v1/models."""

    data: list[Model]


class Reading(msgspec.Struct, frozen=True):
    """What changes all the time of a device."""

    free_bytes: int | None = None
    utilization: float | None = None  # 0 to 1
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None


class CpuFacts(msgspec.Struct, frozen=True):
    """Of a processor device."""

    cpus: list[int] = []
    cores: int | None = None
    fast_cores: int | None = None
    isa: list[str] = []
    quota_cpus: float | None = None


class GpuFacts(msgspec.Struct, frozen=True):
    """Of an accelerator."""

    capability: str | None = None


class Device(msgspec.Struct, frozen=True):
    """One entry of /api/v1/devices."""

    name: str
    identity: str | None = None
    kind: str | None = None  # "cpu" | "gpu" | "npu"
    vendor: str | None = None
    description: str | None = None
    state: str | None = None  # "ready" | "silent" | "failed" | "unconfirmed" | "gone"
    problem: str | None = None
    driver: str | None = None
    total_bytes: int | None = None
    unified: bool | None = None
    backends: dict[str, str] = {}
    cpu: CpuFacts | None = None
    gpu: GpuFacts | None = None
    reading: Reading = Reading()


class PairReport(msgspec.Struct, frozen=True):
    """What was found out of a device with a backend."""

    device: str
    backend: str
    outcome: str | None = None  # "passed" | "failed" | "unsupported" | "untested"
    reason: str | None = None
    remedy: str | None = None


class DeviceList(msgspec.Struct, frozen=True):
    """GET /api/v1/devices."""

    devices: list[Device]
    problems: list[str] = []
    absent_backends: dict[str, str] = {}
    checks: list[PairReport] = []


class ModelReadiness(msgspec.Struct, frozen=True):
    """One model within /readyz."""

    name: str
    state: str | None = None
    phase: str | None = None
    progress: float | None = None
    error: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    """GET /readyz, whether it came with 200 or 503."""

    ready: bool
    draining: bool = False  # it finishes what runs and takes nothing new
    models: list[ModelReadiness] = []


class Certificate(msgspec.Struct, frozen=True):
    """What a box speaks TLS with."""

    fingerprint: str  # "sha256:" and hexadecimal digits
    names: list[str] = []
    valid_until: float | None = None  # unix seconds


class Box(msgspec.Struct, frozen=True):
    """GET /api/v1/box."""

    version: str
    tls: Certificate | None = None


class Version(msgspec.Struct, frozen=True):
    """GET /version."""

    version: str


# --- a question --------------------------------------------------------------------------------


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: str  # "system" | "user" | "assistant"
    content: str


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream carries besides the text."""

    include_usage: bool


class ChatRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """POST /v1/chat/completions; what is left out is the box's to choose."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None


# --- an answer ---------------------------------------------------------------------------------


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Where a prompt's tokens came from."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorBody


class AnswerMessage(msgspec.Struct, frozen=True):
    """A whole message, or what a chunk adds to one."""

    role: str | None = None
    content: str | None = None


class WholeChoice(msgspec.Struct, frozen=True):
    """One choice of an answer that was not streamed."""

    message: AnswerMessage
    index: int = 0
    finish_reason: str | None = None


class Completion(msgspec.Struct, frozen=True):
    """An answer that was not streamed."""

    choices: list[WholeChoice]
    model: str | None = None
    usage: Usage | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """What a chunk adds to one choice."""

    index: int = 0
    delta: AnswerMessage = AnswerMessage()
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event of a stream: a piece of the answer, its usage, or the error that ends it."""

    choices: list[ChunkChoice] = []
    model: str | None = None
    usage: Usage | None = None
    error: ErrorBody | None = None
