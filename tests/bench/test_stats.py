"""Percentiles, spreads and ratios of the benches."""

from __future__ import annotations

import pytest

from hearth_bench.stats import ratios, spread, summarize


def test_percentiles_interpolate_between_neighbours() -> None:
    summary = summarize([float(i) for i in range(1, 102)])

    assert summary is not None
    assert (summary.n, summary.p50, summary.p95, summary.p99) == (101, 51.0, 96.0, 100.0)
    assert (summary.mean, summary.max) == (51.0, 101.0)


def test_order_does_not_matter_and_one_value_is_all_percentiles() -> None:
    assert summarize([3.0, 1.0, 2.0]) == summarize([1.0, 2.0, 3.0])
    one = summarize([7.0])
    assert one is not None
    assert one.p50 == one.p95 == one.p99 == one.max == 7.0


def test_nothing_measured_is_unknown() -> None:
    assert summarize([]) is None
    assert spread([]) is None


def test_spread_is_median_and_extremes() -> None:
    found = spread([1.2, 0.9, 1.0, 1.1])

    assert found is not None
    assert found.median == pytest.approx(1.05)
    assert (found.low, found.high) == (0.9, 1.2)


def test_ratios_leave_out_rounds_that_saw_nothing() -> None:
    assert ratios([2.0, None, 3.0, 1.0], [4.0, 1.0, None, 0.0]) == [0.5]
