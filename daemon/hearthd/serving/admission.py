"""Admission: who may wait for a model, and when the others should come back."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from hearthd.errors import DeadlineExceeded, Overloaded

RATE_WINDOW_SECONDS = 30.0
"""Busy time after which a finished request counts for 1/e of a fresh one."""
LEAST_RETRY_SECONDS = 1.0
MOST_RETRY_SECONDS = 600.0
UNKNOWN_RETRY_SECONDS = 5.0
"""Advice before anything has been measured."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy one model is, as a request of one class and key finds it."""

    n_outstanding: int  # of its class and those above: admitted and not over
    concurrency: int  # that can run at once
    queue_limit: int  # that may wait beside those
    n_above: int = 0  # of n_outstanding, those of classes above
    n_own: int = 0  # of n_outstanding, those of its class and key
    n_keys: int = 1  # with requests of its class, its own counted

    @property
    def n_queued(self) -> int:
        """Those that wait, of its class and above."""
        return max(0, self.n_outstanding - self.concurrency)

    @property
    def n_waiting(self) -> int:
        """Those that wait, of its own class alone: the classes above have their seats first."""
        n_seats = max(0, self.concurrency - self.n_above)
        return max(0, self.n_outstanding - self.n_above - n_seats)

    @property
    def n_ahead(self) -> int:
        """Those of its own class that are served before it.

        Keys take turns: one with few requests does not wait for all those of another.
        """
        return min(self.n_waiting, self.n_own * self.n_keys)


def can_admit(load: Load) -> bool:
    """Whether one more may come; pure.

    Requests of lower classes do not count, and a key that has less than its part of the queue is let
    in though others have filled it: nobody can lock the others out.
    """
    room = load.concurrency + load.queue_limit
    return load.n_outstanding < room or (load.n_keys > 1 and load.n_own < room // load.n_keys)


def retry_after_seconds(load: Load, finished_per_second: float | None) -> float:
    """When the queue of its class that is there now will have been served; pure."""
    if not finished_per_second:
        return UNKNOWN_RETRY_SECONDS
    wait = max(1, load.n_waiting) / finished_per_second
    return float(math.ceil(min(MOST_RETRY_SECONDS, max(LEAST_RETRY_SECONDS, wait))))


def wait_seconds(load: Load, finished_per_second: float | None) -> float:
    """How long one more would wait for its turn, at least; 0 where nothing is known. Pure."""
    if not finished_per_second:
        return 0.0
    return load.n_ahead / finished_per_second


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the queue a request belongs."""

    level: int = 0  # of its class; higher goes first
    key: str = ""


class _Lane:
    """The requests of one class: how many each key has, and how fast they are served.

    Its rate is that of its own busy time, so what the classes above take of the model is in it.
    """

    __slots__ = ("left_seconds", "n_by_key", "n_outstanding", "rate")

    def __init__(self) -> None:
        self.n_by_key: Counter[str] = Counter()
        self.n_outstanding = 0
        self.left_seconds = -math.inf  # when the last one went
        self.rate = ServiceRate()


class Admission:
    """Counts the requests of one model and says no to those that would wait too far back."""

    def __init__(self, name: str, queue_limit: int) -> None:
        self._name = name
        self.queue_limit = queue_limit
        self._lanes: dict[int, _Lane] = {}  # by level: as many as there are classes

    @property
    def n_outstanding(self) -> int:
        """Requests admitted and not over, of all classes."""
        return sum(lane.n_outstanding for lane in self._lanes.values())

    def check(
        self,
        concurrency: int,
        now: float,
        place: Place = Place(),
        *,
        seconds_left: float | None = None,
    ) -> None:
        """Raise Overloaded where the queue is full, DeadlineExceeded where it is too long."""
        lane = self._lane(place.level)
        load = self._load(concurrency, place)
        rate = lane.rate.per_second(now)
        if not can_admit(load):
            seconds = retry_after_seconds(load, rate)
            raise Overloaded(
                f"{load.n_queued} requests wait for {self._name} already, as many as may "
                f"(limits.queue_requests); try again in {seconds:.0f} s",
                retry_after_seconds=seconds,
            )
        wait = wait_seconds(load, rate)
        if seconds_left is not None and wait >= seconds_left:
            raise DeadlineExceeded(
                f"the request would wait about {wait:.1f} s for {self._name}, and its deadline is in "
                f"{max(0.0, seconds_left):.1f} s",
                retry_after_seconds=retry_after_seconds(load, rate),
            )

    def admit(self, concurrency: int, now: float, place: Place = Place()) -> None:
        """Count one request in; raises Overloaded. Each admitted one `leave`s once."""
        self.check(concurrency, now, place)
        lane = self._lane(place.level)
        lane.n_outstanding += 1
        lane.n_by_key[place.key] += 1
        lane.rate.busy(now)

    def leave(self, now: float, place: Place = Place(), *, served: bool) -> None:
        """Count one request out; `served`: it came to its own end."""
        lane = self._lanes[place.level]
        if served:
            lane.rate.finished(now)
        lane.left_seconds = now
        lane.n_outstanding -= 1
        lane.n_by_key[place.key] -= 1
        if not lane.n_by_key[place.key]:
            del lane.n_by_key[place.key]
        if not lane.n_outstanding:
            lane.rate.idle(now)

    def quiet_seconds(self, level: int, now: float) -> float:
        """How long there has been nothing above a level; 0 while there is, infinite where there never was."""
        above = [lane for other, lane in self._lanes.items() if other > level]
        if any(lane.n_outstanding for lane in above):
            return 0.0
        return now - max((lane.left_seconds for lane in above), default=-math.inf)

    def _lane(self, level: int) -> _Lane:
        lane = self._lanes.get(level)
        if lane is None:
            lane = self._lanes[level] = _Lane()
        return lane

    def _load(self, concurrency: int, place: Place) -> Load:
        lane = self._lane(place.level)
        n_above = sum(
            other.n_outstanding for level, other in self._lanes.items() if level > place.level
        )
        n_own = lane.n_by_key.get(place.key, 0)
        return Load(
            n_outstanding=lane.n_outstanding + n_above,
            concurrency=concurrency,
            queue_limit=self.queue_limit,
            n_above=n_above,
            n_own=n_own,
            n_keys=len(lane.n_by_key) + (not n_own),
        )
