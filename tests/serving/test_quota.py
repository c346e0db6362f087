"""What a key may have under way, and how many tokens a minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthd.errors import ConcurrencyLimited, RateLimited
from hearthd.serving.principal import KeyLimits
from hearthd.serving.quota import Quota, Size, TokenBucket

TEN = Size(n_prompt=10, n_bytes=0, max_tokens=10)


def leave(quota: Quota, charge: int, now: float, n_output: int = 10, size: Size = TEN) -> None:
    quota.leave(size, charge, n_prompt=10, n_output=n_output, seconds=2.0, now=now)


def test_no_more_under_way_than_allowed() -> None:
    quota = Quota("k", KeyLimits(concurrency=2), 0.0)
    charges = [quota.admit(TEN, 0.0) for _ in range(2)]
    with pytest.raises(ConcurrencyLimited, match=r"limits\.concurrency") as refused:
        quota.admit(TEN, 0.0)
    assert refused.value.retry_after_seconds == 1.0
    leave(quota, charges[0], 2.0)
    assert quota.admit(TEN, 2.0)
    assert quota.standing(2.0).n_active == 2


def test_when_to_come_back_is_when_the_tokens_are_there() -> None:
    quota = Quota("k", KeyLimits(tokens_per_minute=60), 0.0)
    for _ in range(3):
        quota.admit(TEN, 0.0)
    with pytest.raises(RateLimited, match=r"limits\.tokens_per_minute") as refused:
        quota.admit(TEN, 0.0)
    assert refused.value.retry_after_seconds == 20.0
    assert quota.n_active == 3
    with pytest.raises(RateLimited):
        quota.admit(TEN, 19.0)
    assert quota.admit(TEN, 20.0)


def test_what_was_charged_becomes_what_was_used() -> None:
    quota = Quota("k", KeyLimits(tokens_per_minute=600), 0.0)
    charge = quota.admit(Size(10, 0, 500), 0.0)
    assert charge == 510
    leave(quota, charge, 0.0, n_output=5)
    assert quota.standing(0.0).tokens_left == 585
    charge = quota.admit(Size(10, 0, 10), 0.0)
    leave(quota, charge, 0.0, n_output=990)
    standing = quota.standing(0.0)
    assert standing.tokens_left == 0
    assert standing.reset_seconds == pytest.approx(101.5)  # 415 overdrawn and 600 to fill


def test_a_request_larger_than_a_minute_waits_for_a_full_bucket() -> None:
    quota = Quota("k", KeyLimits(tokens_per_minute=60), 0.0)
    big = Size(1000, 0, 0)
    quota.admit(big, 0.0)
    with pytest.raises(RateLimited) as refused:
        quota.admit(TEN, 0.0)
    assert refused.value.retry_after_seconds == 960


def test_lengths_are_learnt() -> None:
    quota = Quota("k", KeyLimits(tokens_per_minute=10**6), 0.0)
    text = Size(None, 1000, None)
    first = quota.admit(text, 0.0)
    for _ in range(60):
        quota.leave(text, first, n_prompt=900, n_output=7, seconds=1.0, now=0.0)
        quota.admit(text, 0.0)
    assert 850 < quota.admit(text, 0.0) < 920


def test_no_limits_no_refusals() -> None:
    quota = Quota("k", KeyLimits(), 0.0)
    for _ in range(1000):
        quota.admit(Size(10**6, 0, 10**6), 0.0)
    assert quota.standing(0.0).tokens_left is None


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 200)), max_size=50))
def test_no_more_flows_out_than_in(steps: list[tuple[float, int]]) -> None:
    bucket, now, used = TokenBucket(120, 0.0), 0.0, 0
    for pause, n_tokens in steps:
        now += pause
        wait = bucket.wait_seconds(n_tokens, now)
        if n_tokens <= 120 and not wait:
            bucket.take(n_tokens, now)
            used += n_tokens
        elif n_tokens <= 120:
            assert bucket.wait_seconds(n_tokens, now + wait + 1e-6) < 1e-6
        assert used <= 120 + now * 2 + 1e-6
        assert bucket.level(now) <= 120
