"""What operators watch: the whole box in one answer."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from hearthd import __version__, log
from hearthd.api.authentication import PRINCIPAL
from hearthd.api.keys import BATCHES, CACHE, CHECKUP, DEVICES, SERVING
from hearthd.api.numbers import whole_number
from hearthd.api.openai_models import ModelDetails
from hearthd.api.openai_models import describe as describe_model
from hearthd.api.response import json_response
from hearthd.cache.service import ResponseCache
from hearthd.config.schema import Role
from hearthd.hardware.cpu_load import CpuLoad, mean_load
from hearthd.hardware.device import Device
from hearthd.lan.announcer import Announcer
from hearthd.placement.ledger import Ledger
from hearthd.serving.governor import Governor
from hearthd.serving.principal import LOCAL, Principal
from hearthd.serving.status import ModelStatus
from hearthd.serving.under_way import UnderWay
from hearthd.telemetry.alerts import (
    Alert,
    batch_alerts,
    cache_alerts,
    device_alerts,
    disk_alerts,
    hold_alerts,
    in_order,
    lan_alerts,
    model_alerts,
    quarantine_alerts,
)

LEDGER = web.AppKey("ledger", Ledger)
STATE_FOLDER = web.AppKey("state_folder", Path)
ANNOUNCER = web.AppKey("announcer", Announcer)
GOVERNOR = web.AppKey("governor", Governor)

MOST_LINES: Final = 500
LOOK_SECONDS: Final = 0.9
MOST_REQUESTS: Final = 200
_STARTED: Final = web.AppKey("started", float)


class DeviceLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One device now; null is unknown."""

    name: str
    kind: str
    description: str
    state: str
    problem: str | None
    total_bytes: int | None
    used_bytes: int | None  # by whomsoever
    budget_bytes: int | None  # that models may lease
    leased_bytes: int
    leasable_bytes: int | None  # still, with what others have taken subtracted
    leases: dict[str, int]  # bytes by model
    utilization: float | None
    temperature_celsius: float | None
    power_watts: float | None
    power_limit_watts: float | None


class WatchedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model now."""

    name: str
    pinned: bool
    answers: bool
    hearth: ModelDetails  # as in /v1/models


class TopAnswer(msgspec.Struct, frozen=True):
    """An answer that the cache has often given."""

    key: str
    model: str
    question: str | None  # null: only operators see what others ask
    hits: int
    saved_seconds: float


class CacheLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache did since the start."""

    enabled: bool
    results: dict[str, int]  # by X-Cache
    n_answers: int
    n_bytes: int
    budget_bytes: int
    saved_seconds: float
    saved_tokens: int
    top: list[TopAnswer]  # most frequent first; those that spared most are among them


class Top(msgspec.Struct, frozen=True, kw_only=True):
    """The box at one moment; times are unix seconds."""

    version: str
    now: float
    started: float
    draining: bool
    role: Role  # of who asks
    devices: list[DeviceLoad]
    models: list[WatchedModel]
    n_requests: int
    requests: list[UnderWay]  # the oldest of them
    n_output_tokens: int  # of all requests since the start
    n_prompt_tokens: int
    cache: CacheLoad
    alerts: list[Alert]
    log: list[log.Line] | None  # null: only operators see it


async def show_top(request: web.Request) -> web.Response:
    """GET /api/v1/top"""
    after = whole_number(request.query.get("log_after", "0"), "log_after")
    limit = min(MOST_LINES, whole_number(request.query.get("log_limit", "200"), "log_limit"))
    app, principal = request.app, request.get(PRINCIPAL, LOCAL)
    serving = app[SERVING]
    readiness, requests = serving.readiness(), serving.under_way()
    devices = list(app[DEVICES].inventory.devices) if DEVICES in app else []
    seen = await app[_LOOK].now(app.get(STATE_FOLDER))
    tokens = serving.tokens()
    top = Top(
        version=__version__,
        now=time.time(),
        started=app[_STARTED],
        draining=readiness.draining,
        role=principal.role,
        devices=[_device_load(device, app.get(LEDGER), seen.cpu_loads) for device in devices],
        models=[_watched(status) for status in readiness.models],
        n_requests=len(requests),
        requests=requests[:MOST_REQUESTS],
        n_output_tokens=tokens.n_output,
        n_prompt_tokens=tokens.n_prompt,
        cache=_cache_load(app[CACHE], principal),
        alerts=_alerts(app, readiness.models, devices, seen),
        log=log.tail.after(after, limit) if principal.is_operator else None,
    )
    return json_response(top, headers={"Cache-Control": "no-store"})


async def remember_start(app: web.Application) -> None:
    """When the daemon began; a signal of its start."""
    app[_STARTED] = time.time()
    app[_LOOK] = _Look()


# --- parts -------------------------------------------------------------------------------------


class _Seen(msgspec.Struct, frozen=True):
    """What nobody keeps: it is looked up when somebody watches."""

    cpu_loads: dict[int, float] = {}
    state_folder: str | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None


class _Look:
    """Looks at most once in `LOOK_SECONDS`, however many watch; in a thread, for it reads files."""

    def __init__(self) -> None:
        self._cpus = CpuLoad()
        self._seen = _Seen()
        self._seen_seconds = -LOOK_SECONDS
        self._lock = asyncio.Lock()

    async def now(self, folder: Path | None) -> _Seen:
        """What was seen lately."""
        async with self._lock:
            if time.monotonic() - self._seen_seconds >= LOOK_SECONDS:
                self._seen = await asyncio.to_thread(self._read, folder)
                self._seen_seconds = time.monotonic()
        return self._seen

    def _read(self, folder: Path | None) -> _Seen:
        free_bytes, total_bytes = (None, None) if folder is None else _room(folder)
        return _Seen(
            self._cpus.read(), None if folder is None else str(folder), free_bytes, total_bytes
        )


_LOOK: Final = web.AppKey("look", _Look)


def _device_load(device: Device, ledger: Ledger | None, cpu_loads: dict[int, float]) -> DeviceLoad:
    reading, leases = device.reading, {} if ledger is None else ledger.held(device.name)
    known = device.total_bytes is not None and reading.free_bytes is not None
    return DeviceLoad(
        name=device.name,
        kind=device.kind,
        description=device.description,
        state=device.state,
        problem=device.problem,
        total_bytes=device.total_bytes,
        used_bytes=(device.total_bytes or 0) - (reading.free_bytes or 0) if known else None,
        budget_bytes=None if ledger is None else ledger.budget_bytes(device.name),
        leased_bytes=sum(leases.values()),
        leasable_bytes=None if ledger is None else ledger.free_bytes(device.name),
        leases=leases,
        utilization=reading.utilization
        if device.cpu is None
        else mean_load(cpu_loads, device.cpu.cpus),
        temperature_celsius=reading.temperature_celsius,
        power_watts=reading.power_watts,
        power_limit_watts=reading.power_limit_watts,
    )


def _watched(status: ModelStatus) -> WatchedModel:
    details = describe_model(status).hearth
    return WatchedModel(
        name=status.name, pinned=status.pinned, answers=status.answers, hearth=details
    )


def _cache_load(cache: ResponseCache, principal: Principal) -> CacheLoad:
    counts = cache.counts
    results: dict[str, int] = {}
    for (_, result), n in counts.results.items():
        results[result] = results.get(result, 0) + n
    kept = [] if cache.exact is None else cache.exact.top
    return CacheLoad(
        enabled=cache.exact is not None,
        results=results,
        n_answers=counts.n_entries,
        n_bytes=counts.n_bytes,
        budget_bytes=cache.policy.cache.budget,
        saved_seconds=sum(counts.saved_seconds.values()),
        saved_tokens=sum(counts.saved_tokens.values()),
        top=[
            TopAnswer(
                answer.key,
                answer.model,
                answer.question if principal.is_operator else None,
                answer.hits,
                answer.saved_seconds,
            )
            for answer in kept
        ],
    )


def _alerts(
    app: web.Application, models: Iterable[ModelStatus], devices: Iterable[Device], seen: _Seen
) -> list[Alert]:
    quarantined = app[CHECKUP].quarantined() if CHECKUP in app else {}
    return in_order(
        [
            *model_alerts(models),
            *disk_alerts(seen.state_folder or "", seen.free_bytes, seen.total_bytes),
            *device_alerts(devices),
            *quarantine_alerts(quarantined),
            *hold_alerts(app[GOVERNOR].reasons if GOVERNOR in app else {}),
            *cache_alerts(app[CACHE].counts.faults),
            *batch_alerts(app[BATCHES].paused() if BATCHES in app else {}),
            *lan_alerts(app[ANNOUNCER].problem if ANNOUNCER in app else None),
        ]
    )


def _room(folder: Path) -> tuple[int | None, int | None]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None, None
    return usage.free, usage.total
