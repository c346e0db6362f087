"""Admission: who may wait for a model, and when the others should come back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hearthd.errors import Overloaded

RATE_WINDOW_SECONDS = 30.0
"""Busy time after which a finished request counts for 1/e of a fresh one."""
LEAST_RETRY_SECONDS = 1.0
MOST_RETRY_SECONDS = 600.0
UNKNOWN_RETRY_SECONDS = 5.0
"""Advice before anything has been measured."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy one model is."""

    n_outstanding: int  # admitted and not over
    concurrency: int  # that can run at once
    queue_limit: int  # that may wait beside those

    @property
    def n_queued(self) -> int:
        return max(0, self.n_outstanding - self.concurrency)


def can_admit(load: Load) -> bool:
    """Whether one more may come; pure."""
    return load.n_outstanding < load.concurrency + load.queue_limit


def retry_after_seconds(load: Load, finished_per_second: float | None) -> float:
    """When the queue that is there now will have been served; pure."""
    if not finished_per_second:
        return UNKNOWN_RETRY_SECONDS
    wait = max(1, load.n_queued) / finished_per_second
    return float(math.ceil(min(MOST_RETRY_SECONDS, max(LEAST_RETRY_SECONDS, wait))))


class ServiceRate:
    """Finished requests per second of busy time, recent ones weighing more.

    Idle time is left out: it says nothing of how fast a queue is served.
    """

    def __init__(self, window_seconds: float = RATE_WINDOW_SECONDS) -> None:
        self._window = window_seconds
        self._weight_finished = 0.0
        self._weight_seconds = 0.0
        self._busy_since: float | None = None  # or since when the weights are up to date

    def busy(self, now: float) -> None:
        """There is work from now on."""
        if self._busy_since is None:
            self._busy_since = now

    def idle(self, now: float) -> None:
        """There is no work from now on."""
        self._advance(now)
        self._busy_since = None

    def finished(self, now: float) -> None:
        """One request was served to its end."""
        self._advance(now)
        self._weight_finished += 1.0

    def per_second(self, now: float) -> float | None:
        """The rate; None before the first request was served."""
        self._advance(now)
        if self._weight_finished == 0.0 or self._weight_seconds <= 0.0:
            return None
        return self._weight_finished / self._weight_seconds

    def _advance(self, now: float) -> None:
        if self._busy_since is None:
            return
        seconds = max(0.0, now - self._busy_since)
        kept = math.exp(-seconds / self._window)
        self._weight_finished *= kept
        self._weight_seconds = self._weight_seconds * kept + self._window * (1.0 - kept)
        self._busy_since = now


class Admission:
    """Counts the requests of one model and says no to those that would wait too far back."""

    def __init__(self, name: str, queue_limit: int) -> None:
        self._name = name
        self._queue_limit = queue_limit
        self._rate = ServiceRate()
        self.n_outstanding = 0

    def admit(self, concurrency: int, now: float) -> None:
        """Count one request in; raises Overloaded. Each admitted one `leave`s once."""
        load = Load(self.n_outstanding, concurrency, self._queue_limit)
        if not can_admit(load):
            seconds = retry_after_seconds(load, self._rate.per_second(now))
            raise Overloaded(
                f"{load.n_queued} requests wait for {self._name} already, as many as may "
                f"(limits.queue_requests); try again in {seconds:.0f} s",
                retry_after_seconds=seconds,
            )
        self.n_outstanding += 1
        self._rate.busy(now)

    def leave(self, now: float, *, served: bool) -> None:
        """Count one request out; `served`: it came to its own end."""
        if served:
            self._rate.finished(now)
        self.n_outstanding -= 1
        if not self.n_outstanding:
            self._rate.idle(now)
