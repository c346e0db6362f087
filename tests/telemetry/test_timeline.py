"""RequestTimeline: which durations its moments give, and which are unknown."""

from __future__ import annotations

import pytest

from hearthd.telemetry.timeline import RequestTimeline


def _timeline() -> RequestTimeline:
    return RequestTimeline(
        model="m",
        klass="normal",
        arrived_seconds=100.0,
        admitted_seconds=100.5,
        started_seconds=101.0,
        first_token_seconds=103.0,
        finished_seconds=107.0,
        n_output=5,
    )


def test_durations_are_differences_of_moments() -> None:
    timeline = _timeline()
    assert timeline.queue_seconds == pytest.approx(1.0)
    assert timeline.ttft_seconds == pytest.approx(3.0)
    assert timeline.e2e_seconds == pytest.approx(7.0)
    assert timeline.tpot_seconds == pytest.approx(1.0)


def test_moments_that_never_came_give_unknown_durations() -> None:
    timeline = RequestTimeline(model="m", klass="normal", arrived_seconds=1.0, finished_seconds=2.0)
    assert timeline.queue_seconds is None
    assert timeline.ttft_seconds is None
    assert timeline.tpot_seconds is None
    assert timeline.e2e_seconds == pytest.approx(1.0)


@pytest.mark.parametrize("n_output", [0, 1])
def test_time_per_token_needs_two_tokens(n_output: int) -> None:
    timeline = _timeline()
    timeline.n_output = n_output
    assert timeline.tpot_seconds is None
