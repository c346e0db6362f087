"""Counts: what the cache did since the daemon started, for `/metrics` and for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hearthd.cache.answers import Put
from hearthd.cache.entry import Listed

Result: TypeAlias = Literal["HIT", "MISS", "BYPASS", "COALESCED"]
"""How a request was answered, as the header X-Cache says it."""


class Counts:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.results: Counter[tuple[str, Result]] = Counter()  # by model
        self.bypasses: Counter[tuple[str, str]] = Counter()  # by model and reason
        self.faults: Counter[str] = Counter()
        self.semantic: Counter[tuple[str, str]] = Counter()  # by model and outcome
        self.saved_seconds: defaultdict[str, float] = defaultdict(float)
        self.saved_tokens: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()  # by reason
        self.n_rejected = 0
        self.n_stored = 0
        self.n_entries = 0
        self.n_bytes = 0

    def result(self, model: str, result: Result) -> None:
        self.results[model, result] += 1

    def bypass(self, model: str, reason: str) -> None:
        self.results[model, "BYPASS"] += 1
        self.bypasses[model, reason] += 1

    def saved(self, model: str, seconds: float, n_tokens: int) -> None:
        """A hit spared this much."""
        self.saved_seconds[model] += seconds
        self.saved_tokens[model] += n_tokens

    def fault(self, what: str) -> None:
        self.faults[what] += 1

    def put(self, put: Put) -> None:
        self.n_stored += put.kept
        self.n_rejected += not put.kept
        self.evicted(put.n_evicted)

    def evicted(self, n: int) -> None:
        self.removed["budget"] += n

    def expired(self, n: int) -> None:
        self.removed["age"] += n


class CacheCollector(Collector):
    """The counts in Prometheus's terms, read when scraped."""

    def __init__(self, counts: Counts, top: Callable[[], Iterable[Listed]]) -> None:
        self._counts = counts
        self._top = top

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        yield _counter(
            "hearth_cache_requests_total", "Requests by what the cache did.", ("model", "result"),
            counts.results,
        )  # fmt: skip
        yield _counter(
            "hearth_cache_bypass_total", "Requests it had no part in, by reason.",
            ("model", "reason"), counts.bypasses,
        )  # fmt: skip
        yield _counter(
            "hearth_cache_semantic_total", "Questions compared, by outcome.", ("model", "outcome"),
            counts.semantic,
        )  # fmt: skip
        saved = {(model,): seconds for model, seconds in counts.saved_seconds.items()}
        yield _counter("hearth_cache_saved_seconds_total", "That hits spared.", ("model",), saved)
        tokens = {(model,): n for model, n in counts.saved_tokens.items()}
        yield _counter("hearth_cache_saved_tokens_total", "That hits spared.", ("model",), tokens)
        faults = {(fault,): n for fault, n in counts.faults.items()}
        yield _counter("hearth_cache_faults_total", "Of the cache.", ("fault",), faults)
        removed = {(reason,): n for reason, n in counts.removed.items()}
        yield _counter("hearth_cache_removed_total", "Answers removed.", ("reason",), removed)
        yield _counter("hearth_cache_stored_total", "Answers kept.", (), {(): counts.n_stored})
        yield _counter(
            "hearth_cache_rejected_total", "Answers not kept: too large, or too rarely asked for.",
            (), {(): counts.n_rejected},
        )  # fmt: skip
        yield GaugeMetricFamily("hearth_cache_entries", "Answers kept now.", counts.n_entries)
        yield GaugeMetricFamily("hearth_cache_bytes", "Of answers kept now.", counts.n_bytes)
        yield from _top(self._top())


def _top(top: Iterable[Listed]) -> Iterator[Metric]:
    """The most frequent queries, by the beginning of their keys: a bounded number of labels."""
    hits = GaugeMetricFamily(
        "hearth_cache_top_hits", "Hits of the most frequent answers.", labels=("model", "answer")
    )
    saved = GaugeMetricFamily(
        "hearth_cache_top_saved_seconds", "That they spared.", labels=("model", "answer")
    )
    for listed in top:
        labels = (listed.model, listed.key[:16])
        hits.add_metric(labels, listed.hits)
        saved.add_metric(labels, listed.saved_seconds)
    yield hits
    yield saved


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family
