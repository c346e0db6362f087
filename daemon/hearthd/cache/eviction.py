"""Eviction: which answers make way for a new one, or that none does; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that might go."""

    id: int
    n_bytes: int
    frequency: int


def choose_victims(
    coldest: Sequence[Candidate], needed_bytes: int, frequency: int
) -> list[Candidate] | None:
    """Those of `coldest` (least recently used first) that go for an answer asked for `frequency` times.

    The rarest go first. None: what would have to go is asked for more often than what would come.
    """
    victims: list[Candidate] = []
    freed = 0
    for candidate in sorted(coldest, key=lambda one: one.frequency):  # stable: oldest first
        if freed >= needed_bytes:
            break
        if candidate.frequency > frequency:
            return None
        victims.append(candidate)
        freed += candidate.n_bytes
    return victims if freed >= needed_bytes else None
