"""Encoders: what models that encode have computed, as their engines last told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from hearthd import wire


class Encoding(Protocol):
    """A model, and what its engine last told."""

    @property
    def name(self) -> str: ...
    @property
    def beat(self) -> wire.Beat | None: ...


def encoder_metrics(models: Iterable[Encoding]) -> Iterator[Metric]:
    """Counted since the engine started; models that have encoded nothing are left out."""
    texts = CounterMetricFamily(
        "hearth_encoded_texts_total", "Texts and pairs encoded.", labels=("model",)
    )
    seconds = CounterMetricFamily(
        "hearth_encoding_seconds_total", "That the encoder took.", labels=("model",)
    )
    for model in models:
        beat = model.beat
        if beat is not None and beat.n_texts:
            texts.add_metric((model.name,), beat.n_texts)
            seconds.add_metric((model.name,), beat.busy_seconds)
    yield texts
    yield seconds
