"""WaitingQueue: requests without a seat, in lanes by class and key; who is next is decided when asked."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, TypeAlias

from hearthd.engine.request import Request

Rank: TypeAlias = Callable[[Request], tuple[Any, ...]]
"""The smaller goes first; it may change from step to step."""

_order = attrgetter("order")


class WaitingQueue:
    """Within a lane by arrival; among lanes, the head that ranks first."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._lanes: dict[tuple[int, str], list[Request]] = {}  # none is empty
        self._n = 0

    def __len__(self) -> int:
        return self._n  # read from other threads too

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __iter__(self) -> Iterator[Request]:
        for lane in self._lanes.values():
            yield from lane

    def add(self, request: Request) -> None:
        """Take a request in; one that was here before has its old place."""
        at = (request.level, request.priority.key)
        insort(self._lanes.setdefault(at, []), request, key=_order)
        self._n += 1

    def remove(self, request: Request) -> None:
        """A request gets a seat, or goes."""
        at = (request.level, request.priority.key)
        lane = self._lanes[at]
        lane.remove(request)
        self._n -= 1
        if not lane:
            del self._lanes[at]

    def first(self) -> Request | None:
        """Who is next; None where nobody waits."""
        lanes = self._lanes
        if len(lanes) == 1:
            return next(iter(lanes.values()))[0]
        return min((lane[0] for lane in lanes.values()), key=self._rank, default=None)

    def oldest_by_level(self) -> dict[int, Request]:
        """Of each class, the request that came first."""
        oldest: dict[int, Request] = {}
        for (level, _), lane in self._lanes.items():
            known = oldest.get(level)
            if known is None or lane[0].order < known.order:
                oldest[level] = lane[0]
        return oldest
