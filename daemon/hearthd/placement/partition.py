"""Partition: the best cut of a row of layers over units, exactly; numbers in, numbers out, pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

MOST_IN_ANY_ORDER = 8
"""Devices that are tried in every order; more are kept in the order they are given in."""
TOLERANCE = 1e-10
"""Two bottlenecks whose ratio is nearer to one are the same."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Layers [first, last) on a unit, by its number."""

    unit: int
    first: int
    last: int


Cuts: TypeAlias = tuple[Cut, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Units that may each take one run of layers, and what that costs them.

    `seconds` and `held` are sums over the first 0, 1, ..., n layers. A unit stands for the devices in its mask, and no
    device is used twice. `hops[a][b]` seconds belong to the stage on b.
    """

    n_layers: int
    masks: Sequence[int]
    seconds: Sequence[Sequence[float]]  # [unit][n_layers + 1]
    held: Sequence[Sequence[int]]  # [unit][n_layers + 1] bytes
    room: Sequence[int]  # [unit] bytes
    hops: Sequence[Sequence[float]]  # [unit][unit]
    most_stages: int

    @property
    def keeps_order(self) -> bool:
        """Whether stages follow each other in the order of their units only."""
        used = 0
        for mask in self.masks:
            used |= mask
        return used.bit_count() > MOST_IN_ANY_ORDER

    def hop(self, before: int, unit: int) -> float:
        """Seconds until a stage has what the one before it made; none before the first."""
        return self.hops[before][unit] if before >= 0 else 0.0

    def stage_seconds(self, cuts: Cuts) -> list[float]:
        """Of each stage, with its hop."""
        before, found = -1, []
        for cut in cuts:
            seconds = self.seconds[cut.unit]
            found.append(seconds[cut.last] - seconds[cut.first] + self.hop(before, cut.unit))
            before = cut.unit
        return found

    def furthest(self, unit: int, first: int, most_seconds: float) -> int:
        """Where a stage that begins at `first` has to end at the latest."""
        held = self.held[unit]
        last = bisect_right(held, held[first] + self.room[unit]) - 1
        if most_seconds < math.inf:
            seconds = self.seconds[unit]
            last = min(last, bisect_right(seconds, seconds[first] + most_seconds) - 1)
        return last


_State: TypeAlias = tuple[int, int]  # devices used (0 where the order is kept), last unit
_Chain: TypeAlias = tuple[int, int, int, "_Chain | None"]  # unit, first, last, what comes before


def min_bottleneck(problem: Problem, below: float = math.inf) -> Cuts | None:
    """The cuts whose longest stage is shortest, of these the quickest in all; None: none is below `below`."""
    found = reach(problem, below)
    if found is None:
        return None
    least, most = 0.0, max(problem.stage_seconds(found))
    while most - least > TOLERANCE * most:
        middle = (least + most) / 2
        shorter = reach(problem, middle)
        if shorter is None:
            least = middle
        else:
            found, most = shorter, min(middle, max(problem.stage_seconds(shorter)))
    return min_sum(problem, most * (1 + 2 * TOLERANCE)) or found


def reach(problem: Problem, bound: float = math.inf) -> Cuts | None:
    """Some cuts that cover all layers with no stage longer than the bound; None where there are none.

    Who has come further with the same devices has no disadvantage: one layer is kept for each state.
    """
    level: dict[_State, _Chain | None] = {(0, -1): None}
    for _ in range(problem.most_stages):
        after: dict[_State, _Chain | None] = {}
        for state, chain in level.items():
            first = 0 if chain is None else chain[2]
            for unit, reached in _successors(problem, state):
                last = problem.furthest(unit, first, bound - problem.hop(state[1], unit))
                if last >= problem.n_layers:
                    return _cuts((unit, first, problem.n_layers, chain))
                known = after.get(reached)
                if last > first and (known is None or known[2] < last):
                    after[reached] = (unit, first, last, chain)
        level = after
    return None


@dataclass(slots=True)
class _Front:
    """The least seconds to have covered the first 0, 1, ... layers in one state, and how."""

    seconds: list[float]
    chains: list[_Chain | None]


def min_sum(problem: Problem, bound: float = math.inf) -> Cuts | None:
    """The cuts whose stages take least in all, no stage longer than the bound; None where there are none."""
    n = problem.n_layers
    least, found = math.inf, None
    level = {(0, -1): _Front([0.0] + [math.inf] * n, [None] * (n + 1))}
    for _ in range(problem.most_stages):
        after: dict[_State, _Front] = {}
        for state, front in level.items():
            for unit, reached in _successors(problem, state):
                target = after.get(reached)
                if target is None:
                    target = after[reached] = _Front([math.inf] * (n + 1), [None] * (n + 1))
                _relax(problem, unit, problem.hop(state[1], unit), bound, front, target)
        for front in after.values():
            if front.seconds[n] < least:
                least, found = front.seconds[n], front.chains[n]
        level = after
    return None if found is None else _cuts(found)


def min_period(problem: Problem, in_flight: int) -> Cuts | None:
    """The cuts with the least max(sum of all stages, in_flight times the longest); None where there are none."""
    best = min_sum(problem)
    if best is None:
        return None

    def period(cuts: Cuts) -> float:
        stages = problem.stage_seconds(cuts)
        return max(sum(stages), in_flight * max(stages))

    least, most = sum(problem.stage_seconds(best)), period(best)
    while most - least > TOLERANCE * most:
        middle = (least + most) / 2
        cuts = min_sum(problem, middle / in_flight)
        reached = math.inf if cuts is None else period(cuts)
        if cuts is not None and reached < most:
            best, most = cuts, reached
        if reached > middle:
            least = middle
    return best


def _successors(problem: Problem, state: _State) -> Iterator[tuple[int, _State]]:
    """Units that may follow, and the states they lead to."""
    used, last = state
    if problem.keeps_order:
        for unit in range(last + 1, len(problem.masks)):
            if last < 0 or not problem.masks[unit] & problem.masks[last]:
                yield unit, (0, unit)
        return
    for unit, mask in enumerate(problem.masks):
        if not used & mask:
            yield unit, (used | mask, unit)


def _relax(
    problem: Problem, unit: int, hop: float, bound: float, front: _Front, target: _Front
) -> None:
    """Add a stage on a unit to all that is covered, keeping what is quickest: a minimum over a sliding window."""
    seconds, held, room = problem.seconds[unit], problem.held[unit], problem.room[unit]
    limit = bound - hop
    window: deque[tuple[float, int]] = deque()
    for last in range(1, problem.n_layers + 1):
        first = last - 1
        before = front.seconds[first]
        if before < math.inf:
            key = before - seconds[first]
            while window and window[-1][0] >= key:
                window.pop()
            window.append((key, first))
        while window and (
            held[last] - held[window[0][1]] > room or seconds[last] - seconds[window[0][1]] > limit
        ):
            window.popleft()
        if window:
            key, first = window[0]
            total = key + seconds[last] + hop
            if total < target.seconds[last]:
                target.seconds[last] = total
                target.chains[last] = (unit, first, last, front.chains[first])


def _cuts(chain: _Chain) -> Cuts:
    cuts = []
    link: _Chain | None = chain
    while link is not None:
        cuts.append(Cut(*link[:3]))
        link = link[3]
    return tuple(reversed(cuts))
