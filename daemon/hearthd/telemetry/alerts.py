"""Alerts: what an operator should look at now, judged from values that are known already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

Level: TypeAlias = Literal["critical", "warning", "info"]
"""critical: something is not served. warning: it will not be, or is worse than it could be. info: as asked for."""

_LEVELS: tuple[Level, ...] = ("critical", "warning", "info")
LEAST_FREE_BYTES = 1 << 30
"""Less room for state than that is worth a warning, where it is also under `LEAST_FREE_SHARE`."""
LEAST_FREE_SHARE = 0.05
FULL_BYTES = 64 << 20
HOT_CELSIUS = 90.0


class Alert(msgspec.Struct, frozen=True):
    """One thing to look at; `kind` is one of a few words that a program may tell apart."""

    level: Level
    kind: str
    subject: str  # a model, a device, a path
    message: str


class ModelView(Protocol):
    """What is judged of a model."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def error(self) -> str | None: ...
    @property
    def answers(self) -> bool: ...
    @property
    def setbacks(self) -> Sequence[str]: ...


class ReadingView(Protocol):
    """What is judged of a device's readings."""

    @property
    def temperature_celsius(self) -> float | None: ...


class DeviceView(Protocol):
    """What is judged of a device."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def problem(self) -> str | None: ...
    @property
    def reading(self) -> ReadingView: ...


def model_alerts(models: Iterable[ModelView]) -> list[Alert]:
    """Models that do not serve, or whose engine was lost."""
    alerts = []
    for model in models:
        reason = model.error or "no reason is known"
        if model.state == "failed":
            alerts.append(Alert("critical", "model_failed", model.name, reason))
        elif model.state == "restarting":
            alerts.append(Alert("critical", "model_restarting", model.name, reason))
        elif model.state == "ready" and not model.answers and model.error is not None:
            alerts.append(Alert("critical", "model_silent", model.name, reason))
        elif model.state in ("drained", "unloading", "unloaded"):
            text = f"{model.state} by an operator: it takes no requests"
            alerts.append(Alert("info", f"model_{model.state}", model.name, text))
        alerts += [Alert("warning", "load_failed", model.name, text) for text in model.setbacks]
    return alerts


def device_alerts(devices: Iterable[DeviceView]) -> list[Alert]:
    """Devices that cannot be used, or are too hot."""
    alerts = []
    for device in devices:
        if device.state != "ready":
            text = device.problem or f"the device is {device.state}"
            alerts.append(Alert("warning", f"device_{device.state}", device.name, text))
        celsius = device.reading.temperature_celsius
        if celsius is not None and celsius >= HOT_CELSIUS:
            alerts.append(Alert("warning", "device_hot", device.name, f"{celsius:.0f} °C"))
    return alerts


def quarantine_alerts(reasons: Mapping[str, str]) -> list[Alert]:
    """Pairs of backend and device that were found to compute wrongly: nothing is put on them."""
    return [
        Alert("warning", "quarantined", pair, f"nothing is put on it: {reason}")
        for pair, reason in reasons.items()
    ]


def disk_alerts(path: str, free_bytes: int | None, total_bytes: int | None) -> list[Alert]:
    """Little or no room where state is kept."""
    if free_bytes is None or not total_bytes:
        return []
    text = f"{free_bytes / (1 << 20):.0f} MiB are free"
    if free_bytes < FULL_BYTES:
        return [Alert("critical", "disk_full", path, text)]
    if free_bytes < LEAST_FREE_BYTES and free_bytes / total_bytes < LEAST_FREE_SHARE:
        return [Alert("warning", "disk_low", path, text)]
    return []


def cache_alerts(faults: Mapping[str, int]) -> list[Alert]:
    """Faults of the cache since the start."""
    return [
        Alert("warning", "cache_fault", "cache", f"{fault}: {n} times since the start")
        for fault, n in faults.items()
        if n
    ]


def batch_alerts(paused: Mapping[str, str]) -> list[Alert]:
    """Batches that wait until something is repaired, by id, and what that is."""
    return [Alert("warning", "batch_waits", batch, why) for batch, why in paused.items()]


def hold_alerts(reasons: Mapping[str, str]) -> list[Alert]:
    """Models that do not use all of their seats, and why."""
    return [Alert("warning", "model_held", model, why) for model, why in reasons.items()]


def lan_alerts(problem: str | None) -> list[Alert]:
    """The network is not told of the box, though it should be."""
    return [] if problem is None else [Alert("warning", "not_announced", "mDNS", problem)]


def in_order(alerts: Iterable[Alert]) -> list[Alert]:
    """The gravest first; within a level as they came."""
    return sorted(alerts, key=lambda alert: _LEVELS.index(alert.level))
