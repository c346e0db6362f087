"""Statistics: what a list of measurements is worth in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Summary:
    """One measured quantity over many events; its unit is the measurements'."""

    n: int
    p50: float
    p95: float
    p99: float
    mean: float
    max: float


def summarize(values: Sequence[float]) -> Summary | None:
    """Percentiles with linear interpolation between neighbours; None for no values."""
    if not values:
        return None
    array = np.asarray(values, np.float64)
    p50, p95, p99 = np.percentile(array, (50, 95, 99)).tolist()
    return Summary(len(values), p50, p95, p99, float(array.mean()), float(array.max()))


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repeated rounds, and how far they lie apart."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def spread(values: Sequence[float]) -> Spread | None:
    """Median, least and greatest; None for no values."""
    if not values:
        return None
    return Spread(float(np.median(values)), min(values), max(values))


def ratios(a: Sequence[float | None], b: Sequence[float | None]) -> list[float]:
    """a over b, round by round; rounds in which either is unknown or b is zero are left out."""
    return [x / y for x, y in zip(a, b, strict=True) if x is not None and y]
