"""Metrics: what a scrape shows after requests, and of models as they are now."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from hearthd import wire
from hearthd.telemetry.metrics import Metrics
from hearthd.telemetry.timeline import RequestTimeline


@dataclass(frozen=True)
class Model:
    """A model as the gauges see it."""

    name: str
    answers: bool = True
    n_running: int = 0
    n_waiting: int = 0
    kv_tokens_free: int | None = None
    beat: wire.Beat | None = None
    n_restarts: int = 0
    engine_rss_bytes: int | None = None


def _scrape(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Value of each sample by name and labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def _labels(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset((name.rstrip("_"), value) for name, value in labels.items())


def test_a_finished_request_is_counted_once_in_every_series() -> None:
    metrics = Metrics()
    metrics.observe(
        RequestTimeline(
            model="m",
            klass="normal",
            backend="gguf",
            arrived_seconds=10.0,
            started_seconds=10.5,
            first_token_seconds=11.0,
            finished_seconds=14.0,
            outcome="stop",
            n_prompt=7,
            n_output=4,
            n_cached=3,
        )
    )
    seen = _scrape(metrics)
    labels = _labels(model="m", backend="gguf", class_="normal")
    assert seen["hearth_ttft_seconds_sum", labels] == 1.0
    assert seen["hearth_tpot_seconds_sum", labels] == 1.0
    assert seen["hearth_e2e_seconds_sum", labels] == 4.0
    assert seen["hearth_queue_seconds_sum", labels] == 0.5
    assert seen["hearth_ttft_seconds_count", labels] == 1
    assert seen["hearth_requests_total", _labels(model="m", class_="normal", outcome="stop")] == 1
    assert seen["hearth_prompt_tokens_total", _labels(model="m")] == 7
    assert seen["hearth_output_tokens_total", _labels(model="m")] == 4
    assert seen["hearth_cached_tokens_total", _labels(model="m")] == 3


def test_a_rejected_request_leaves_no_latency() -> None:
    metrics = Metrics()
    metrics.observe(
        RequestTimeline(model="m", klass="batch", arrived_seconds=1.0, outcome="rejected")
    )
    seen = _scrape(metrics)
    assert (
        seen["hearth_requests_total", _labels(model="m", class_="batch", outcome="rejected")] == 1
    )
    assert not [name for name, _ in seen if name == "hearth_ttft_seconds_count"]


def test_gauges_are_read_when_scraped() -> None:
    metrics = Metrics()
    models = [Model("a", n_running=2, n_waiting=5, kv_tokens_free=64, n_restarts=1)]
    metrics.watch(lambda: models)
    assert _scrape(metrics)["hearth_waiting_requests", _labels(model="a")] == 5
    models = [Model("a", answers=False)]
    seen = _scrape(metrics)
    assert seen["hearth_waiting_requests", _labels(model="a")] == 0
    assert seen["hearth_model_up", _labels(model="a")] == 0
    assert ("hearth_kv_free_tokens", _labels(model="a")) not in seen


def test_prefixes_beyond_memory_are_told_by_where_they_are() -> None:
    metrics = Metrics()
    beat = wire.Beat(0, 0, 64, None, 9, 9, 9, 9, 0, 0, 5000, 7000, 5, 2, 640)
    metrics.watch(lambda: [Model("a", beat=beat), Model("b")])
    seen = _scrape(metrics)
    stored = [seen["hearth_prefix_stored_bytes", _labels(model="a", tier=t)] for t in TIERS]
    recalls = [seen["hearth_prefix_recalls_total", _labels(model="a", tier=t)] for t in TIERS]
    assert (stored, recalls) == ([5000, 7000], [3, 2])
    assert seen["hearth_prefix_recalled_tokens_total", _labels(model="a")] == 640
    assert ("hearth_prefix_recalled_tokens_total", _labels(model="b")) not in seen


TIERS = ("ram", "disk")


def test_guesses_are_told_by_whose_they_are() -> None:
    metrics = Metrics()
    beat = wire.Beat(
        0, 0, 64, None, 9, 9, 9, 9, 0, 0,
        n_drafted={"lookup": 8, "model": 5},
        n_draft_accepted={"lookup": 7, "model": 2},
        draft_gain=1.5,
        draft_model_seconds=0.25,
    )  # fmt: skip
    silent = wire.Beat(0, 0, 64, None, 9, 9, 9, 9, 0, 0)
    metrics.watch(lambda: [Model("a", beat=beat), Model("b"), Model("c", beat=silent)])
    seen = _scrape(metrics)
    drafted, accepted = "hearth_drafted_tokens_total", "hearth_draft_accepted_tokens_total"
    assert seen[drafted, _labels(model="a", drafter="lookup")] == 8
    assert seen[accepted, _labels(model="a", drafter="model")] == 2
    assert seen["hearth_draft_gain", _labels(model="a")] == 1.5
    assert seen["hearth_draft_model_seconds_total", _labels(model="a")] == 0.25
    assert ("hearth_draft_gain", _labels(model="c")) not in seen
    assert ("hearth_draft_model_seconds_total", _labels(model="b")) not in seen


def test_http_answers_are_counted_by_route() -> None:
    metrics = Metrics()
    metrics.count_http("/v1/models", "GET", 200)
    metrics.count_http("/v1/models", "GET", 200)
    seen = _scrape(metrics)
    labels = _labels(route="/v1/models", method="GET", status="200")
    assert seen["hearth_http_requests_total", labels] == 2


def test_two_instances_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.count_http("/livez", "GET", 200)
    assert not [name for name, _ in _scrape(second) if name == "hearth_http_requests_total"]
