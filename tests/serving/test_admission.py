"""Who may wait, and when the others should come back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthd.errors import DeadlineExceeded, Overloaded
from hearthd.serving.admission import (
    UNKNOWN_RETRY_SECONDS,
    Admission,
    Load,
    Place,
    ServiceRate,
    can_admit,
    retry_after_seconds,
    wait_seconds,
)

BATCH, INTERACTIVE = -1, 1


def test_the_queue_is_what_does_not_run() -> None:
    assert can_admit(Load(n_outstanding=17, concurrency=16, queue_limit=2))
    assert not can_admit(Load(n_outstanding=18, concurrency=16, queue_limit=2))
    assert not can_admit(Load(n_outstanding=4, concurrency=4, queue_limit=0))


def test_come_back_when_the_queue_has_been_served() -> None:
    load = Load(n_outstanding=30, concurrency=10, queue_limit=20)
    assert retry_after_seconds(load, 2.0) == 10.0
    assert retry_after_seconds(load, 3.0) == 7.0
    assert retry_after_seconds(load, 1e9) == 1.0
    assert retry_after_seconds(load, 1e-9) == 600.0
    assert retry_after_seconds(load, None) == UNKNOWN_RETRY_SECONDS


@pytest.mark.parametrize("batch", [1, 8])
def test_the_rate_is_that_of_busy_time(batch: int) -> None:
    rate = ServiceRate()
    now = 0.0
    for _ in range(20):
        rate.busy(now)
        for _ in range(5):
            now += 0.5 * batch
            for _ in range(batch):
                rate.finished(now)
        rate.idle(now)
        now += 100.0  # nobody asked for anything
    measured = rate.per_second(now)
    assert measured == pytest.approx(2.0, rel=0.15)


def test_a_rate_follows_a_change_and_a_stall() -> None:
    rate = ServiceRate()
    rate.busy(0.0)
    for second in range(1, 200):
        rate.finished(float(second))
    assert rate.per_second(199.0) == pytest.approx(1.0, rel=0.05)
    for half in range(400):
        rate.finished(199.0 + half / 2)
    assert rate.per_second(399.0) == pytest.approx(2.0, rel=0.05)
    stalled = rate.per_second(460.0)
    assert stalled is not None
    assert stalled < 0.4


def test_no_rate_before_anything_was_served() -> None:
    rate = ServiceRate()
    assert rate.per_second(1.0) is None
    rate.busy(1.0)
    assert rate.per_second(5.0) is None


def test_a_full_queue_says_when_to_come_back() -> None:
    admission = Admission("m", queue_limit=2)
    for _ in range(3):
        admission.admit(1, 0.0)
    admission.leave(10.0, served=True)
    admission.admit(1, 10.0)
    with pytest.raises(Overloaded, match=r"limits\.queue_requests") as refused:
        admission.admit(1, 10.0)
    assert refused.value.retry_after_seconds == pytest.approx(18, abs=3)  # 2 wait, 10 s each
    assert admission.n_outstanding == 3


@given(st.lists(st.booleans(), max_size=60))
def test_never_more_than_run_and_wait(comes: list[bool]) -> None:
    admission = Admission("m", queue_limit=3)
    now = 0.0
    for come in comes:
        now += 1.0
        before = admission.n_outstanding
        if come and before == 5:
            with pytest.raises(Overloaded):
                admission.admit(2, now)
        elif come:
            admission.admit(2, now)
            assert admission.n_outstanding == before + 1
        elif before:
            admission.leave(now, served=True)
        assert 0 <= admission.n_outstanding <= 5


# --- classes, keys, deadlines --------------------------------------------------------------------


def test_a_flood_of_batch_does_not_keep_interactive_out() -> None:
    admission = Admission("m", queue_limit=2)
    for _ in range(3):
        admission.admit(1, 0.0, Place(BATCH, "b"))
    with pytest.raises(Overloaded):
        admission.admit(1, 0.0, Place(BATCH, "b"))
    for _ in range(3):
        admission.admit(1, 0.0, Place(INTERACTIVE, "a"))
    with pytest.raises(Overloaded):
        admission.admit(1, 0.0, Place(INTERACTIVE, "a"))
    with pytest.raises(Overloaded):
        admission.admit(1, 0.0, Place(0, "c"))


def test_a_key_that_floods_does_not_keep_another_out() -> None:
    admission = Admission("m", queue_limit=8)
    for _ in range(10):
        admission.admit(2, 0.0, Place(0, "flood"))
    with pytest.raises(Overloaded):
        admission.admit(2, 0.0, Place(0, "flood"))
    for _ in range(5):
        admission.admit(2, 0.0, Place(0, "other"))
    with pytest.raises(Overloaded):
        admission.admit(2, 0.0, Place(0, "other"))
    assert admission.n_outstanding == 15


def test_each_class_has_its_own_rate() -> None:
    """Interactive requests take the model most of the time: batch is told so, and they are not."""
    admission = Admission("m", queue_limit=5)
    for _ in range(6):
        admission.admit(1, 0.0, Place(BATCH, "b"))
    now = 0.0
    for i in range(120):
        admission.admit(1, now, Place(INTERACTIVE, "a"))
        now += 0.5
        admission.leave(now, Place(INTERACTIVE, "a"), served=True)
        if i % 20 == 19:
            admission.leave(now, Place(BATCH, "b"), served=True)
            admission.admit(1, now, Place(BATCH, "b"))
    with pytest.raises(Overloaded) as batch:
        admission.admit(1, now, Place(BATCH, "b"))
    assert batch.value.retry_after_seconds == pytest.approx(5 * 10.0, rel=0.5)
    for _ in range(6):
        admission.admit(1, now, Place(INTERACTIVE, "a"))
    with pytest.raises(Overloaded) as interactive:
        admission.admit(1, now, Place(INTERACTIVE, "a"))
    assert interactive.value.retry_after_seconds == pytest.approx(5 * 0.5, abs=1.0)


def test_what_would_wait_past_its_deadline_is_not_taken() -> None:
    admission = Admission("m", queue_limit=100)
    now = 0.0
    for _ in range(30):
        admission.admit(1, now, Place(0, "a"))
        now += 1.0
        admission.leave(now, Place(0, "a"), served=True)
    for _ in range(11):
        admission.admit(1, now, Place(0, "a"))
    with pytest.raises(DeadlineExceeded, match="would wait about"):
        admission.check(1, now, Place(0, "a"), seconds_left=8.0)
    admission.check(1, now, Place(0, "a"), seconds_left=14.0)
    admission.check(1, now, Place(0, "b"), seconds_left=1.0)  # its turn comes first
    admission.check(1, now, Place(INTERACTIVE, "a"), seconds_left=1.0)
    with pytest.raises(DeadlineExceeded):
        admission.check(1, now, Place(INTERACTIVE, "a"), seconds_left=-0.1)


def test_nothing_is_shed_on_a_guess() -> None:
    assert wait_seconds(Load(n_outstanding=50, concurrency=1, queue_limit=99, n_own=50), None) == 0


@given(
    st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.sampled_from("abc"), st.booleans()), max_size=80)
)  # fmt: skip
def test_the_queue_stays_bounded_and_the_books_balance(
    steps: list[tuple[int, str, bool]],
) -> None:
    admission, inside = Admission("m", queue_limit=4), list[Place]()
    for i, (level, key, comes) in enumerate(steps):
        place = Place(level, key)
        if comes:
            try:
                admission.admit(2, float(i), place)
                inside.append(place)
            except Overloaded:
                continue
        elif place in inside:
            inside.remove(place)
            admission.leave(float(i), place, served=True)
        assert admission.n_outstanding == len(inside) <= 3 * 2 * 6
    assert all(inside.count(Place(level, "a")) <= 6 for level in (-1, 0, 1))


def test_how_long_nothing_more_urgent_was_there() -> None:
    admission = Admission("m", 10)
    assert admission.quiet_seconds(-1, 5.0) == math.inf
    admission.admit(4, 5.0, Place(-1, "a"))
    assert admission.quiet_seconds(-1, 6.0) == math.inf  # what is as urgent does not count
    admission.admit(4, 6.0, Place(1, "b"))
    assert admission.quiet_seconds(-1, 7.0) == 0.0
    admission.leave(8.0, Place(1, "b"), served=True)
    assert admission.quiet_seconds(-1, 10.0) == 2.0
    assert admission.quiet_seconds(1, 10.0) == math.inf
