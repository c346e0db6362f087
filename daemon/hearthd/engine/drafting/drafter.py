"""Drafter: who guesses what comes next, as the scheduler and the engine know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hearthd.engine.request import Request
from hearthd.engine.step import StepPlan


class Drafter(Protocol):
    """Guesses what comes next, and hears what became of it."""

    def propose(
        self, requests: Sequence[Request], limits: Sequence[int], n_spare: int
    ) -> list[list[int]]:
        """Guesses for each request, at most its limit, together at most n_spare; mostly empty lists."""

    def observe(self, plan: StepPlan, n_gained: Sequence[int], seconds: float) -> None:
        """A step was committed: tokens each of its requests gained, and how long it took."""

    def leave(self, request: Request) -> None:
        """The request gives up its seat; it may come back."""

    def forget(self, request: Request) -> None:
        """The request is over."""

    def close(self) -> None:
        """Free what is held for guessing; idempotent."""
