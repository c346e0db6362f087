"""Buckets: the few shapes that a provider is given which compiles a graph for each shape; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sequences of a run, tokens of each, and places for keys and values; each ascending."""

    rows: tuple[int, ...]
    lengths: tuple[int, ...]  # begins with 1
    widths: tuple[int, ...]

    @property
    def n_shapes(self) -> int:
        """How many there are at most: several sequences share a run only with one token each."""
        return (len(self.rows) + len(self.lengths) - 1) * len(self.widths)


def choose_buckets(n_seq: int, n_ctx: int, n_rows: int) -> Buckets:
    """Four times as much from one to the next, up to all that the stage is made for."""
    return Buckets(_steps(1, n_seq), _steps(1, n_rows, factor=16), _steps(256, n_ctx))


def rounded(n: int, steps: Sequence[int]) -> int:
    """The smallest step that holds n; n itself where none does, or there are none."""
    return next((step for step in steps if step >= n), n)


def pieces(n: int, room: int, steps: Sequence[int], *, exact: bool) -> list[tuple[int, int]]:
    """How n tokens that come next, with room for so many, are cut: (tokens, tokens with filling) of each.

    What is filled up must have room; with `exact` nothing is filled up. Without steps: one piece.
    """
    if not steps:
        return [(n, n)]
    found: list[tuple[int, int]] = []
    while n:
        filled = rounded(n, steps)
        if filled < n or filled > room or (exact and filled != n):
            filled = max(step for step in steps if step <= n)
        taken = min(n, filled)
        found.append((taken, filled))
        n -= taken
        room -= taken
    return found


def _steps(least: int, most: int, factor: int = 4) -> tuple[int, ...]:
    found = []
    step = least
    while step < most:
        found.append(step)
        step *= factor
    return (*found, most)
