"""Metrics: what Prometheus scrapes, in a registry of its own."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hearthd import __version__, wire
from hearthd.telemetry.devices import DeviceCollector, DeviceGauges
from hearthd.telemetry.drafts import draft_metrics
from hearthd.telemetry.encoders import encoder_metrics
from hearthd.telemetry.timeline import RequestTimeline

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_BUCKETS = (
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160,
)  # fmt: skip
_TPOT_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5,
)  # fmt: skip
_E2E_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
_QUEUE_BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_UNKNOWN = "unknown"  # label of a request that no engine took


class ModelGauges(Protocol):
    """What a scrape reads of one model; None is left out."""

    @property
    def name(self) -> str: ...
    @property
    def answers(self) -> bool: ...
    @property
    def n_running(self) -> int: ...
    @property
    def n_waiting(self) -> int: ...
    @property
    def kv_tokens_free(self) -> int | None: ...
    @property
    def n_restarts(self) -> int: ...
    @property
    def engine_rss_bytes(self) -> int | None: ...
    @property
    def beat(self) -> wire.Beat | None: ...


class KeyGauges(Protocol):
    """What a scrape reads of one key; None is left out."""

    @property
    def name(self) -> str: ...
    @property
    def n_active(self) -> int: ...
    @property
    def tokens_left(self) -> int | None: ...


class Metrics:
    """Counts requests and answers scrapes; belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("model", "backend", "class")
        self._ttft = self._histogram(
            "hearth_ttft_seconds", "Arrival to first token.", labels, _TTFT_BUCKETS
        )
        self._tpot = self._histogram(
            "hearth_tpot_seconds",
            "Mean time of an output token after the first.",
            labels,
            _TPOT_BUCKETS,
        )
        self._e2e = self._histogram("hearth_e2e_seconds", "Arrival to end.", labels, _E2E_BUCKETS)
        self._queue = self._histogram(
            "hearth_queue_seconds", "Arrival to the first step.", labels, _QUEUE_BUCKETS
        )
        self._requests = self._counter(
            "hearth_requests_total", "Generations ended.", ("model", "class", "outcome")
        )
        self._prompt_tokens = self._counter(
            "hearth_prompt_tokens_total", "Tokens of prompts.", ("model",)
        )
        self._output_tokens = self._counter(
            "hearth_output_tokens_total", "Tokens generated.", ("model",)
        )
        self._cached_tokens = self._counter(
            "hearth_cached_tokens_total",
            "Tokens of prompts that were not computed anew.",
            ("model",),
        )
        key = ("key", "class")
        self._key_requests = self._counter(
            "hearth_key_requests_total", "Generations ended, by key.", (*key, "outcome")
        )
        self._key_prompt_tokens = self._counter(
            "hearth_key_prompt_tokens_total", "Tokens of prompts, by key.", key
        )
        self._key_output_tokens = self._counter(
            "hearth_key_output_tokens_total", "Tokens generated, by key.", key
        )
        self._key_queue = Summary(
            "hearth_key_queue_seconds",
            "Arrival to the first step, by key.",
            key,
            registry=self._registry,
        )
        self._refused = self._counter(
            "hearth_refused_total", "Requests not admitted.", ("model", "key", "class", "reason")
        )
        self._preempted = self._counter(
            "hearth_preempted_total",
            "Times that requests had to leave their place for others.",
            ("model", "key", "class"),
        )
        self._http = self._counter(
            "hearth_http_requests_total", "HTTP requests answered.", ("route", "method", "status")
        )
        build = Gauge(
            "hearth_build_info",
            "Version; always 1.",
            ("version", "python"),
            registry=self._registry,
        )
        build.labels(__version__, platform.python_version()).set(1)

    def watch(self, models: Callable[[], Iterable[ModelGauges]]) -> None:
        """Read the gauges of models from here at every scrape."""
        self._registry.register(_ModelCollector(models))

    def watch_keys(self, keys: Callable[[], Iterable[KeyGauges]]) -> None:
        """Read the gauges of keys from here at every scrape."""
        self._registry.register(_KeyCollector(keys))

    def add(self, collector: Collector) -> None:
        """Read further metrics from here at every scrape."""
        self._registry.register(collector)

    def watch_devices(self, devices: Callable[[], Iterable[DeviceGauges]]) -> None:
        """Read the gauges of devices from here at every scrape."""
        self._registry.register(DeviceCollector(devices))

    def observe(self, timeline: RequestTimeline) -> None:
        """Count one request that has ended, or was not admitted."""
        model, klass = timeline.model, timeline.klass
        labels = (model, timeline.backend or _UNKNOWN, klass)
        for histogram, seconds in (
            (self._ttft, timeline.ttft_seconds),
            (self._tpot, timeline.tpot_seconds),
            (self._e2e, timeline.e2e_seconds),
            (self._queue, timeline.queue_seconds),
        ):
            if seconds is not None:
                histogram.labels(*labels).observe(seconds)
        self._requests.labels(model, klass, timeline.outcome or _UNKNOWN).inc()
        self._prompt_tokens.labels(model).inc(timeline.n_prompt)
        self._output_tokens.labels(model).inc(timeline.n_output)
        self._cached_tokens.labels(model).inc(timeline.n_cached)
        self._observe_key(timeline)

    def _observe_key(self, timeline: RequestTimeline) -> None:
        """The same by key; there are as many keys as the configuration names."""
        model, key, klass = timeline.model, timeline.key, timeline.klass
        self._key_requests.labels(key, klass, timeline.outcome or _UNKNOWN).inc()
        self._key_prompt_tokens.labels(key, klass).inc(timeline.n_prompt)
        self._key_output_tokens.labels(key, klass).inc(timeline.n_output)
        if timeline.queue_seconds is not None:
            self._key_queue.labels(key, klass).observe(timeline.queue_seconds)
        if timeline.refusal is not None:
            self._refused.labels(model, key, klass, timeline.refusal).inc()
        if timeline.n_preempted:
            self._preempted.labels(model, key, klass).inc(timeline.n_preempted)

    def count_http(self, route: str, method: str, status: int) -> None:
        """Count one HTTP answer; `route` is the pattern of the route table, never a client's path."""
        self._http.labels(route, method, str(status)).inc()

    def render(self) -> bytes:
        """The exposition text, of CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self._registry)


class _ModelCollector(Collector):
    """Gauges of models, read when scraped."""

    def __init__(self, models: Callable[[], Iterable[ModelGauges]]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        models = list(self._models())
        yield _gauge("hearth_model_up", "1: the engine answers.", models, _is_up)
        yield _gauge("hearth_running_requests", "In steps.", models, lambda m: m.n_running)
        yield _gauge("hearth_waiting_requests", "In the queue.", models, lambda m: m.n_waiting)
        yield _gauge(
            "hearth_kv_free_tokens", "Room in key-value memory.", models, lambda m: m.kv_tokens_free
        )
        yield _gauge(
            "hearth_engine_resident_bytes", "Of the process.", models, lambda m: m.engine_rss_bytes
        )
        restarts = CounterMetricFamily(
            "hearth_engine_restarts_total", "Engines replaced.", labels=("model",)
        )
        for model in models:
            restarts.add_metric((model.name,), model.n_restarts)
        yield restarts
        yield from _prefixes(models)
        yield from draft_metrics(models)
        yield from encoder_metrics(models)


class _KeyCollector(Collector):
    """Gauges of keys, read when scraped."""

    def __init__(self, keys: Callable[[], Iterable[KeyGauges]]) -> None:
        self._keys = keys

    def collect(self) -> Iterator[Metric]:
        active = GaugeMetricFamily(
            "hearth_key_active_requests", "Admitted and not over.", labels=("key",)
        )
        left = GaugeMetricFamily(
            "hearth_key_tokens_left", "Tokens of the minute not used up.", labels=("key",)
        )
        for key in self._keys():
            active.add_metric((key.name,), key.n_active)
            if key.tokens_left is not None:
                left.add_metric((key.name,), key.tokens_left)
        yield active
        yield left


def _prefixes(models: Iterable[ModelGauges]) -> Iterator[Metric]:
    """Of prefixes beyond key-value memory; counted since the engine started."""
    stored = GaugeMetricFamily(
        "hearth_prefix_stored_bytes", "Of saved prefixes.", labels=("model", "tier")
    )
    recalls = CounterMetricFamily(
        "hearth_prefix_recalls_total",
        "Requests that went on after a saved prefix, by where it was.",
        labels=("model", "tier"),
    )
    tokens = CounterMetricFamily(
        "hearth_prefix_recalled_tokens_total", "Tokens of those prefixes.", labels=("model",)
    )
    for model in models:
        beat = model.beat
        if beat is None:
            continue
        stored.add_metric((model.name, "ram"), beat.prefix_ram_bytes)
        stored.add_metric((model.name, "disk"), beat.prefix_disk_bytes)
        recalls.add_metric((model.name, "ram"), beat.n_recalls - beat.n_disk_recalls)
        recalls.add_metric((model.name, "disk"), beat.n_disk_recalls)
        tokens.add_metric((model.name,), beat.n_recalled_tokens)
    yield stored
    yield recalls
    yield tokens


def _is_up(model: ModelGauges) -> int:
    return int(model.answers)


def _gauge(
    name: str,
    text: str,
    models: Iterable[ModelGauges],
    read: Callable[[ModelGauges], int | None],
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("model",))
    for model in models:
        value = read(model)
        if value is not None:
            family.add_metric((model.name,), value)
    return family
