"""Quota: what one key has under way and has used of its tokens of the minute."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hearthd.errors import ConcurrencyLimited, RateLimited
from hearthd.serving.principal import KeyLimits

MINUTE_SECONDS = 60.0
FIRST_OUTPUT_TOKENS = 128.0
"""Guess of an answer's length before the first of a key has ended."""
FIRST_TOKENS_PER_BYTE = 0.3
_EWMA = 0.1


class TokenBucket:
    """Tokens that flow in evenly up to a minute's worth; may be overdrawn, which takes time to pay back."""

    def __init__(self, tokens_per_minute: int, now: float) -> None:
        self.capacity = float(tokens_per_minute)
        self._level = self.capacity
        self._at_seconds = now

    def level(self, now: float) -> float:
        """Tokens that are there; below 0 where more was used than was charged at first."""
        gained = (now - self._at_seconds) * self.capacity / MINUTE_SECONDS
        return min(self.capacity, self._level + max(0.0, gained))

    def wait_seconds(self, n_tokens: float, now: float) -> float:
        """Until so many tokens are there; 0 where they are. More than fit: until it is full."""
        short = min(n_tokens, self.capacity) - self.level(now)
        return max(0.0, short) * MINUTE_SECONDS / self.capacity

    def take(self, n_tokens: float, now: float) -> None:
        """Take tokens out, whatever is there; fewer than none puts some back."""
        self._level = min(self.capacity, self.level(now) - n_tokens)
        self._at_seconds = now


@dataclass(frozen=True, slots=True)
class Size:
    """What is known of a request's length before a tokenizer has seen it."""

    n_prompt: int | None  # tokens, where the client sent tokens
    n_bytes: int  # of the prompt's text otherwise
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a key stands to its limits; None: it has no such limit."""

    name: str
    concurrency: int | None
    n_active: int
    tokens_per_minute: int | None
    tokens_left: int | None
    reset_seconds: float | None  # until all tokens of the minute are there again


class Quota:
    """Charges each request of one key when it is admitted, and puts it right when it is over."""

    def __init__(self, name: str, limits: KeyLimits, now: float) -> None:
        self.n_active = 0
        self._name = name
        self.limits = limits
        per_minute = limits.tokens_per_minute
        self._bucket = None if per_minute is None else TokenBucket(per_minute, now)
        self._tokens_per_byte = FIRST_TOKENS_PER_BYTE
        self._n_output = FIRST_OUTPUT_TOKENS
        self._active_seconds = 0.0  # mean time of a request, as far as it is known

    def admit(self, size: Size, now: float) -> int:
        """Count one request in; returns the tokens it is charged. Each admitted one `leave`s once.

        Raises ConcurrencyLimited, RateLimited.
        """
        most = self.limits.concurrency
        if most is not None and self.n_active >= most:
            seconds = float(max(1, math.ceil(self._active_seconds / most)))
            raise ConcurrencyLimited(
                f"the key {self._name} has {self.n_active} requests under way, as many as it may "
                f"(limits.concurrency); try again in {seconds:.0f} s",
                retry_after_seconds=seconds,
            )
        charge = self._estimate(size)
        self._charge(charge, now)
        self.n_active += 1
        return charge

    def leave(self, size: Size, charge: int, *, n_prompt: int, n_output: int, seconds: float,
              now: float) -> None:  # fmt: skip
        """Count one request out: what it was charged becomes what it used."""
        self.n_active -= 1
        if self._bucket is not None:
            self._bucket.take(n_prompt + n_output - charge, now)
        self._active_seconds += _step(self._active_seconds, seconds)
        if n_output:
            self._n_output += _EWMA * (n_output - self._n_output)
        if n_prompt and size.n_prompt is None and size.n_bytes:
            self._tokens_per_byte += _EWMA * (n_prompt / size.n_bytes - self._tokens_per_byte)

    def standing(self, now: float) -> Standing:
        """How the key stands now."""
        limits, bucket = self.limits, self._bucket
        if bucket is None:
            return Standing(self._name, limits.concurrency, self.n_active, None, None, None)
        return Standing(
            self._name,
            limits.concurrency,
            self.n_active,
            limits.tokens_per_minute,
            max(0, math.floor(bucket.level(now))),
            bucket.wait_seconds(bucket.capacity, now),
        )

    def _charge(self, charge: int, now: float) -> None:
        bucket = self._bucket
        if bucket is None:
            return
        wait = bucket.wait_seconds(charge, now)
        if wait > 0.0:
            seconds = float(math.ceil(wait))
            raise RateLimited(
                f"the key {self._name} may use {bucket.capacity:.0f} tokens a minute "
                f"(limits.tokens_per_minute) and has {max(0.0, bucket.level(now)):.0f} left; this "
                f"request may take {charge}: try again in {seconds:.0f} s",
                retry_after_seconds=seconds,
            )
        bucket.take(charge, now)

    def _estimate(self, size: Size) -> int:
        n_prompt = size.n_prompt
        if n_prompt is None:
            n_prompt = math.ceil(size.n_bytes * self._tokens_per_byte)
        n_output = self._n_output if size.max_tokens is None else size.max_tokens
        return n_prompt + math.ceil(n_output)


def _step(mean: float, value: float) -> float:
    """What a new value adds to a moving mean; the first one is the mean."""
    return value if mean == 0.0 else _EWMA * (value - mean)
