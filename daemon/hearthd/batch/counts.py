"""Counts: what batches did since the daemon started, and what they do now, for `/metrics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(slots=True)
class Counts:
    """Belongs to the event loop's thread."""

    lines: Counter[str] = field(default_factory=Counter)  # by outcome: completed, failed
    retries: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # batches, by how
    pauses: Counter[str] = field(default_factory=Counter)  # by why


@dataclass(frozen=True, slots=True)
class Now:
    """What a scrape reads."""

    jobs: Mapping[str, int]  # that are not over, by status
    n_paused: int
    n_lines: int  # under way
    n_bytes: int  # of files


class BatchCollector(Collector):
    """The counts in Prometheus's terms, read when scraped."""

    def __init__(self, counts: Counts, now: Callable[[], Now]) -> None:
        self._counts = counts
        self._now = now

    def collect(self) -> Iterator[Metric]:
        counts, now = self._counts, self._now()
        yield _labelled(
            CounterMetricFamily(
                "hearth_batch_lines_total", "Lines of batches done.", labels=("outcome",)
            ),
            counts.lines,
        )
        yield CounterMetricFamily(
            "hearth_batch_retries_total", "Times that a line was asked again.", counts.retries
        )
        yield _labelled(
            CounterMetricFamily("hearth_batch_ended_total", "Batches over.", labels=("status",)),
            counts.ended,
        )
        yield _labelled(
            CounterMetricFamily(
                "hearth_batch_pauses_total", "Times that batches had to wait.", labels=("reason",)
            ),
            counts.pauses,
        )
        yield _labelled(
            GaugeMetricFamily("hearth_batch_jobs", "Batches not over.", labels=("status",)),
            now.jobs,
        )
        yield GaugeMetricFamily("hearth_batch_paused_jobs", "Batches that wait.", now.n_paused)
        yield GaugeMetricFamily("hearth_batch_running_lines", "Lines under way.", now.n_lines)
        yield GaugeMetricFamily("hearth_batch_file_bytes", "Files kept.", now.n_bytes)


def _labelled(
    family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]
) -> Metric:
    for label, value in values.items():
        family.add_metric((label,), value)
    return family
