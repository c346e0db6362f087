"""Devices: their memory, heat and power, as discovery last read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector


class ReadingGauges(Protocol):
    """What changes all the time; None is left out."""

    @property
    def free_bytes(self) -> int | None: ...
    @property
    def utilization(self) -> float | None: ...
    @property
    def temperature_celsius(self) -> float | None: ...
    @property
    def power_watts(self) -> float | None: ...
    @property
    def power_limit_watts(self) -> float | None: ...


class DeviceGauges(Protocol):
    """What a scrape reads of one device; None is left out."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def vendor(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def driver(self) -> str | None: ...
    @property
    def state(self) -> str: ...
    @property
    def total_bytes(self) -> int | None: ...
    @property
    def reading(self) -> ReadingGauges: ...


_GAUGES: tuple[tuple[str, str, Callable[[DeviceGauges], float | None]], ...] = (
    ("hearth_device_up", "1: it may be used.", lambda d: int(d.state == "ready")),
    ("hearth_device_memory_bytes", "In all.", lambda d: d.total_bytes),
    ("hearth_device_memory_free_bytes", "Free now.", lambda d: d.reading.free_bytes),
    ("hearth_device_utilization_ratio", "Busy lately.", lambda d: d.reading.utilization),
    ("hearth_device_temperature_celsius", "Of it.", lambda d: d.reading.temperature_celsius),
    ("hearth_device_power_watts", "That it draws.", lambda d: d.reading.power_watts),
    ("hearth_device_power_limit_watts", "It may draw.", lambda d: d.reading.power_limit_watts),
)


class DeviceCollector(Collector):
    """Gauges of devices, read when scraped."""

    def __init__(self, devices: Callable[[], Iterable[DeviceGauges]]) -> None:
        self._devices = devices

    def collect(self) -> Iterator[Metric]:
        devices = list(self._devices())
        for name, text, read in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=("device",))
            for device in devices:
                value = read(device)
                if value is not None:
                    family.add_metric((device.name,), value)
            yield family
        yield _info(devices)


def _info(devices: Iterable[DeviceGauges]) -> Metric:
    info = InfoMetricFamily("hearth_device", "What it is; always 1.", labels=("device",))
    for device in devices:
        info.add_metric(
            (device.name,),
            {
                "identity": device.identity,
                "kind": device.kind,
                "vendor": device.vendor,
                "description": device.description,
                "driver": device.driver or "",
            },
        )
    return info
