"""Drafter: who guesses what comes next, as the scheduler and the engine know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hearthd.engine.request import Request
from hearthd.engine.step import StepPlan


@dataclass(frozen=True, slots=True)
class DraftReport:
    """What guessing has brought since the engine started; see the heartbeat."""

    guessed: dict[str, int] = field(default_factory=dict)  # tokens, by whose guess
    accepted: dict[str, int] = field(default_factory=dict)
    gain: float | None = None
    model_seconds: float = 0.0
    failure: str | None = None  # why a draft model guesses no more


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

    def report(self) -> DraftReport:
        """What it has brought so far; called from any thread."""

    def close(self) -> None:
        """Free what is held for guessing; idempotent."""
