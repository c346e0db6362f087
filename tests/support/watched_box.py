"""WatchedBox: what `hearth top` reads, as a test has it, with no network in between."""

from __future__ import annotations

import threading

import msgspec

from hearth_tui.errors import ClientError
from hearth_tui.top.types import (
    Alert,
    Batch,
    CacheLoad,
    DeviceLoad,
    LogLine,
    Operated,
    RequestCounts,
    Stage,
    Top,
    TopAnswer,
    UnderWay,
    WatchedDetails,
    WatchedModel,
)

NOW = 1_800_000_000.0
GIB = 1 << 30


def reading(text: bytes) -> Top:
    """As the client reads it."""
    return msgspec.json.decode(text, type=Top)


def _models() -> list[WatchedModel]:
    small = WatchedDetails(
        state="ready", n_running=2, n_waiting=1, kv_tokens=32768, kv_tokens_free=20_100,
        engine_rss_bytes=3 * GIB, engine_pid=4242, n_restarts=0, backend="gguf", context=4096,
        concurrency=16, architecture="llama", quantization="Q4_K", n_parameters=7_600_000_000,
        stages=(Stage("cpu:0", (0, 32)),), n_layers=32, path="/models/kitchen.gguf",
    )  # fmt: skip
    big = WatchedDetails(
        state="loading", phase="reading", progress=0.42, n_running=0, n_waiting=4, n_restarts=2,
        stages=(Stage("gpu:0", (0, 20)), Stage("cpu:0", (20, 32))), n_layers=32,
    )  # fmt: skip
    broken = WatchedDetails(state="failed", error="broken.gguf: the file ends early", n_restarts=0)
    return [
        WatchedModel(name="kitchen", pinned=True, answers=True, hearth=small),
        WatchedModel(name="org/big", hearth=big),
        WatchedModel(name="broken", hearth=broken),
    ]


def _requests() -> list[UnderWay]:
    return [
        UnderWay(
            number=1041, request_id="req-a", key="app", klass="interactive", model="kitchen",
            running=True, n_prompt=812, n_output=97, ttft_seconds=0.124, tokens_per_second=21.4,
            age_seconds=4.7,
        ),
        UnderWay(
            number=1042, request_id="req-b", key="nightly", klass="batch", model="kitchen",
            age_seconds=754.0,
        ),
    ]  # fmt: skip


class WatchedBox:
    """Its attributes are what it will say; `done` is what it was told to do."""

    name = "http://box.local:4327"

    def __init__(self) -> None:
        self.role = "operator"
        self.started = NOW - 93_784
        self.models = _models()
        self.requests = _requests()
        self.jobs: list[Batch] | None = [
            Batch(
                id="batch_68f1", status="in_progress", created_at=NOW - 3700,
                request_counts=RequestCounts(total=5000, completed=1234, failed=2),
            )
        ]  # fmt: skip
        self.lost: ClientError | None = None
        self.refusal: ClientError | None = None
        self.held: threading.Event | None = None  # that a reading waits for
        self.done: list[tuple[str, str]] = []
        self.log_after: list[int] = []
        self.n_readings = 0

    def set_state(self, name: str, state: str) -> None:
        """Another state of a model."""
        replace = msgspec.structs.replace
        self.models = [
            replace(m, hearth=replace(m.hearth, state=state)) if m.name == name else m
            for m in self.models
        ]

    def top(self, log_after: int) -> Top:
        if self.held is not None:
            assert self.held.wait(10)
        self.log_after.append(log_after)
        if self.lost is not None:
            raise self.lost
        self.n_readings += 1
        return Top(
            version="0.1.0",
            now=NOW,
            started=self.started,
            role=self.role,
            devices=_devices(),
            models=self.models,
            n_requests=len(self.requests),
            requests=self.requests,
            n_output_tokens=100,
            cache=_cache(),
            alerts=[
                Alert(
                    level="critical", kind="model_failed", subject="broken",
                    message="broken.gguf: the file ends early",
                ),
                Alert(
                    level="warning", kind="quarantined", subject="onnx gpu:0",
                    message="nothing is put on it: wrong numbers",
                ),
            ],
            log=[line for line in _log() if line.number > log_after],
        )  # fmt: skip

    def batches(self) -> list[Batch] | None:
        return self.jobs

    def operate(self, model: str, operation: str) -> Operated:
        if self.refusal is not None:
            raise self.refusal
        self.done.append((model, operation))
        return Operated(model, "ready")

    def cancel(self, number: int) -> None:
        self.done.append((str(number), "cancel"))

    def hang_up(self) -> None:
        if self.held is not None:
            self.held.set()


def _devices() -> list[DeviceLoad]:
    return [
        DeviceLoad(
            name="cpu:0", kind="cpu", state="ready", total_bytes=32 * GIB, used_bytes=9 * GIB,
            budget_bytes=26 * GIB, leased_bytes=5 * GIB, utilization=0.37,
        ),
        DeviceLoad(
            name="gpu:0", kind="gpu", state="ready", total_bytes=24 * GIB, used_bytes=23 * GIB,
            budget_bytes=23 * GIB, leased_bytes=20 * GIB, utilization=0.96,
            temperature_celsius=87.0, power_watts=311.0, power_limit_watts=350.0,
        ),
        DeviceLoad(name="gpu:1", kind="gpu", state="silent", problem="its driver does not answer"),
    ]  # fmt: skip


def _cache() -> CacheLoad:
    return CacheLoad(
        enabled=True, results={"HIT": 60, "COALESCED": 3, "MISS": 27, "BYPASS": 9}, n_answers=41,
        n_bytes=123_456, budget_bytes=GIB, saved_seconds=812.0, saved_tokens=41_000,
        top=[
            TopAnswer(
                key="ab" * 16, model="kitchen", question="What is the capital of France?",
                hits=40, saved_seconds=12.0,
            ),
            TopAnswer(
                key="cd" * 16, model="kitchen", question="Tell me the whole story again.",
                hits=20, saved_seconds=800.0,
            ),
        ],
    )  # fmt: skip


def _log() -> list[LogLine]:
    return [
        LogLine(
            number=1, time=NOW - 60, level="info", message="listening on http://127.0.0.1:4327"
        ),
        LogLine(
            number=2, time=NOW - 50, level="error", message="model failed: the file ends early"
        ),
    ]
