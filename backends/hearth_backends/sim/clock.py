"""SimClock: time that passes by the cost of steps, not by waiting."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step over all layers: a fixed part, a part for each row, a part for each token read."""

    fixed_seconds: float = 2e-3
    row_seconds: float = 5e-5
    context_seconds: float = 1e-8

    def seconds(self, n_rows: int, n_context: int) -> float:
        """The whole model's time for n_rows that read n_context tokens of key-value memory."""
        return self.fixed_seconds + self.row_seconds * n_rows + self.context_seconds * n_context


class SimClock:
    """A clock that steps move on; call it for the time in seconds. Safe from any thread."""

    def __init__(self, cost: StepCost | None = None) -> None:
        self.cost = cost or StepCost()
        self._now = 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._now += seconds

    def step(self, n_rows: int, n_context: int, share: float) -> None:
        """Let a step pass through a `share` of the layers."""
        self.advance(self.cost.seconds(n_rows, n_context) * share)
