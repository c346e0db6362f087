"""Drafts: what guessing brings each model, as its engine last told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from hearthd import wire


class Drafting(Protocol):
    """A model, and what its engine last told."""

    @property
    def name(self) -> str: ...
    @property
    def beat(self) -> wire.Beat | None: ...


def draft_metrics(models: Iterable[Drafting]) -> Iterator[Metric]:
    """Counted since the engine started; models without an engine are left out."""
    labels = ("model", "drafter")
    drafted = CounterMetricFamily(
        "hearth_drafted_tokens_total", "Guessed, by whose guess.", labels=labels
    )
    accepted = CounterMetricFamily(
        "hearth_draft_accepted_tokens_total", "Of these, those that stood.", labels=labels
    )
    gain = GaugeMetricFamily(
        "hearth_draft_gain", "Decoding speed over that without guesses, lately.", labels=("model",)
    )
    seconds = CounterMetricFamily(
        "hearth_draft_model_seconds_total", "That the draft model took.", labels=("model",)
    )
    for model in models:
        beat = model.beat
        if beat is None:
            continue
        for drafter, n_tokens in beat.n_drafted.items():
            drafted.add_metric((model.name, drafter), n_tokens)
        for drafter, n_tokens in beat.n_draft_accepted.items():
            accepted.add_metric((model.name, drafter), n_tokens)
        if beat.draft_gain is not None:
            gain.add_metric((model.name,), beat.draft_gain)
        seconds.add_metric((model.name,), beat.draft_model_seconds)
    yield from (drafted, accepted, gain, seconds)
