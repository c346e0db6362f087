"""The configuration as frozen structs: every key, its type, its range and its default, once.

A field's comment is its documentation; sizes take a number of bytes or a text such as "12GiB".
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

BUILTIN_MODEL = "builtin:canary"
"""The path of the model that comes with the package."""

ANONYMOUS = "anonymous"
"""Whom a request without a key belongs to; no key has this name."""

RequestClass: TypeAlias = Literal["interactive", "normal", "batch"]
"""How urgent requests are, the most urgent first."""

Role: TypeAlias = Literal["user", "batch", "operator", "readonly"]
"""What kind of thing a key is for; `serving.principal` says what each may do."""

Count: TypeAlias = Annotated[int, Meta(ge=1)]
CountOrNone: TypeAlias = Annotated[int, Meta(ge=0)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
PositiveSeconds: TypeAlias = Annotated[float, Meta(gt=0)]
PositiveMilliseconds: TypeAlias = Annotated[float, Meta(gt=0)]
Weight: TypeAlias = Annotated[float, Meta(ge=0.001, le=1000)]
Size: TypeAlias = Annotated[int, Meta(ge=0, extra={"unit": "bytes"})]
"""Bytes; a text with a unit is turned into them before it is checked."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the configuration."""


class StageConfig(Section, frozen=True):
    """One of models.NAME.stages: layers [first, last) on a device, or on a group of equal ones."""

    backend: str
    device: str = "cpu:0"  # a group: "cuda:0+cuda:1"
    layers: tuple[int, int] | None = None  # unset: all
    own_process: bool | None = None  # unset: where it keeps to `cpus`
    cpus: tuple[CountOrNone, ...] = ()  # processors it keeps to; unset: all of the engine


SemanticMode: TypeAlias = Literal["off", "shadow", "on"]
"""Of answers to the same question in other words: none, measured only, given."""


class ModelCacheConfig(Section, frozen=True):
    """[models.NAME.cache]"""

    enabled: bool = True
    ttl_seconds: PositiveSeconds = 7 * 86400.0  # an older answer is computed anew
    sampled: bool = False  # also answers at a temperature, without a seed
    semantic: SemanticMode = "shadow"  # where cache.embedder is set


class AdapterConfig(Section, frozen=True):
    """One of models.NAME.lora: a LoRA adapter, which requests for NAME:name get."""

    path: str
    name: str = ""  # unset: the file's, without its ending


class ModelConfig(Section, frozen=True):
    """[models.NAME]"""

    path: str = BUILTIN_MODEL  # a file, "canary" for the built-in model, or "sim:..."
    backend: str | None = None  # unset: the best that reads the file
    devices: Annotated[tuple[str, ...], Meta(min_length=1)] | None = (
        None  # several: one group; unset: the planner chooses
    )
    context: Count | None = None  # tokens of one sequence; unset: what memory holds
    concurrency: Count = 16  # sequences at once
    stages: tuple[StageConfig, ...] = ()  # a forced plan: layers by device
    plan: str | None = None  # a file that `hearth plan --output` has written
    objective: Literal["latency", "throughput"] = "latency"  # of the planner
    require: tuple[str, ...] = ()  # devices, kinds or vendors: nothing else is used
    prefer: tuple[str, ...] = ()  # nothing else where these suffice
    avoid: tuple[str, ...] = ()  # only where nothing else suffices
    replicas: Count = 1  # copies, each on devices of its own
    task: Literal["generate", "embed", "rerank"] | None = None  # unset: what the file was made for
    pooling: Literal["mean", "cls", "last"] | None = None  # of embeddings; unset: as the file says
    lookup: bool = True  # what a text holds already guesses how it goes on, where that pays
    draft: str | None = None  # guesses for it: another model's name, a file, or "canary"
    lora: tuple[AdapterConfig, ...] = ()  # adapters; a file alone stands for one named after it
    kv_dtype: Literal["f16", "f32", "q8_0", "fp8"] = "f16"
    weights: Literal[
        "file", "fp32", "fp16", "bf16", "fp8", "int8", "int8-smooth", "int8-32", "int4-32", "int4-128",
        "int8+int4-32", "int8+int4-128",
    ] = "file"  # the kind they are computed with; "file": as stored  # fmt: skip
    kv_tokens: Count | None = None  # over all sequences; unset: decided from the budget
    prefix_ram: Size | None = (
        None  # copies of idle prefixes; unset: half of key-value memory's, at most 256MiB
    )
    prefix_disk: Size = 1 << 30  # files of prefixes that outlive a restart; 0: none
    threads: Count | None = None  # unset: fast physical cores that its device and groups allow
    step_tokens: Count = 512  # rows of one step at most
    grammar_ms: PositiveMilliseconds = 20.0  # that the mask of one token may take
    itl_target_ms: PositiveMilliseconds = 50.0  # between the tokens of a stream, while prompts come
    aging_seconds: PositiveSeconds = 30.0  # a class waits so long at most for a turn
    aliases: tuple[str, ...] = ()  # more names that clients may use
    options: dict[str, Any] = {}  # of the backend
    cache: ModelCacheConfig = ModelCacheConfig()


class KeyLimitsConfig(Section, frozen=True):
    """[keys.NAME.limits]; unset: no limit"""

    concurrency: Count | None = None  # requests under way at once, each choice counted
    tokens_per_minute: Count | None = None  # of prompts and answers
    deadline_seconds: PositiveSeconds | None = None  # of requests that come without one


class KeyConfig(Section, frozen=True, rename={"klass": "class"}):
    """[keys.NAME]"""

    hash: str  # SHA-256 of the key in hexadecimal digits, with or without "sha256:" before it
    klass: RequestClass = "normal"  # the most urgent class it may ask for, and its default
    weight: Weight = 1.0  # of its share, against the other keys of the same class
    limits: KeyLimitsConfig = KeyLimitsConfig()
    salt: str = ""  # prefixes are shared only among keys with the same salt
    cache_group: str = ""  # keys with the same group share cached answers; empty: with nobody
    semantic: SemanticMode | None = None  # unset: as its model says
    models: tuple[str, ...] = ()  # names of models it may use; empty: all
    role: Role = "user"
    expires: Annotated[datetime, Meta(tz=True)] | None = None  # good for nothing from then on


class LimitsConfig(Section, frozen=True):
    """[limits]"""

    max_body_bytes: Size = 32 * 1024 * 1024
    queue_requests: CountOrNone = 256  # of one model, beside those that run
    call_seconds: PositiveSeconds = 60.0  # /tokenize and /detokenize


class EngineConfig(Section, frozen=True):
    """[engine]"""

    heartbeat_seconds: PositiveSeconds = 5.0  # without a sign of life: killed and replaced
    step_timeout_seconds: PositiveSeconds = 300.0  # one step that takes longer is a hang
    load_timeout_seconds: PositiveSeconds = 600.0  # a load without progress for longer is a hang
    stop_seconds: Seconds = 5.0  # for an engine to end when asked, before it is killed
    probe_seconds: PositiveSeconds = 5.0  # without a token: an idle engine is asked for one
    restart_limit: Count = 5  # losses within restart_window_seconds before a model is failed
    restart_window_seconds: PositiveSeconds = 60.0


class MemoryConfig(Section, frozen=True):
    """[memory]"""

    budget: Size | None = None  # for all models; unset: what is free at the start, less reserve
    reserve: Size | None = None  # unset: a tenth of what is free, at least 256MiB
    devices: dict[str, Size] = {}  # budget of a device other than the processor


Span: TypeAlias = Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]
"""Hours of a day, "22:00-06:00", by the box's clock."""


class PowerConfig(Section, frozen=True):
    """[power]"""

    celsius: Positive | None = None  # of a device; while one is hotter, its models run fewer
    watts: Positive | None = None  # of all devices that say; over it, all models run fewer
    quiet: tuple[Span, ...] = ()  # hours in which models run fewer, such as "22:00-06:00"
    quiet_share: Annotated[float, Meta(gt=0, le=1)] = 0.25  # of their seats, in those hours


class CacheConfig(Section, frozen=True):
    """[cache]"""

    enabled: bool = True
    budget: Size = 1 << 30  # answers on disk
    memory: Size = 16 << 20  # answers in memory, ready to be sent
    entry: Size = 1 << 20  # one answer at most
    shared: bool = False  # all keys share answers
    embedder: str = ""  # name of a model that compares questions; empty: none are compared
    threshold: Annotated[float, Meta(ge=0.5, le=1)] = 0.95  # of questions that are the same


class BatchConfig(Section, frozen=True):
    """[batch]"""

    file: Size = 200 << 20  # one uploaded file at most
    lines: Count = 50_000  # of one batch
    budget: Size = 10 << 30  # of all files; uploads over it are refused
    reserve: Size = 256 << 20  # of the disk, left free: with less, batches wait
    keep_seconds: PositiveSeconds = 30 * 86400.0  # files where nobody says, batches that are over


class HardwareConfig(Section, frozen=True):
    """[hardware]"""

    poll_seconds: Annotated[float, Meta(gt=0, le=10)] = 5.0  # between two looks at the devices
    nvml_library: str | None = None  # unset: libnvidia-ml.so.1, as the system finds it
    checkup: bool = True  # test and measure devices when there is nothing else to do
    root: str = "/"  # where proc, sys and dev are, such as a container's mount of its host


class TlsConfig(Section, frozen=True):
    """[tls]"""

    enabled: bool | None = None  # unset: where there is a certificate
    certificate: str | None = None  # unset: one that the box makes for itself
    key: str | None = None  # unset: in the certificate's file
    names: tuple[str, ...] = ()  # that clients call the box, for a certificate of its own

    @property
    def on(self) -> bool:
        """Whether TLS is spoken on the TCP address."""
        return self.certificate is not None if self.enabled is None else self.enabled


class LanConfig(Section, frozen=True):
    """[lan]"""

    enabled: bool = True  # tell the network of the box, where it listens there
    name: str | None = None  # unset: the host's
    interfaces: tuple[str, ...] = ()  # unset: those that lead out of the machine


class LogConfig(Section, frozen=True):
    """[log]"""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"  # auto: text on a terminal


class StopConfig(Section, frozen=True):
    """[stop]"""

    drain_seconds: Seconds = 30.0  # for running requests to finish


class Config(Section, frozen=True):
    """The whole file; `socket` and `state` default by user (see `paths`)."""

    listen: str = "127.0.0.1:4327"
    socket: str = ""
    state: str = ""
    insecure: bool = False  # serve without keys on an address that is not loopback
    trust_loopback: bool = True  # no key is needed over loopback
    models: dict[str, ModelConfig] = {}
    keys: dict[str, KeyConfig] = {}
    tls: TlsConfig = TlsConfig()
    lan: LanConfig = LanConfig()
    limits: LimitsConfig = LimitsConfig()
    engine: EngineConfig = EngineConfig()
    memory: MemoryConfig = MemoryConfig()
    hardware: HardwareConfig = HardwareConfig()
    power: PowerConfig = PowerConfig()
    cache: CacheConfig = CacheConfig()
    batch: BatchConfig = BatchConfig()
    log: LogConfig = LogConfig()
    stop: StopConfig = StopConfig()
