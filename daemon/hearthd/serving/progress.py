"""Progress: what a task that never ends has done so far, and by when it is to have done more."""

from __future__ import annotations

import time

STALL_SECONDS = 20.0
"""A step that takes longer hangs; the longest that is waited for within one is the end of a killed process."""


class Progress:
    """A counter with a deadline: who keeps something going says after each step when the next is due."""

    def __init__(self) -> None:
        self.n_steps = 0
        self._due_seconds = time.monotonic() + STALL_SECONDS

    def step(self, wait_seconds: float = 0.0) -> None:
        """One more is done; the next may wait for so long on purpose."""
        self.n_steps += 1
        self._due_seconds = time.monotonic() + wait_seconds + STALL_SECONDS

    def is_stalled(self, now: float) -> bool:
        """Whether the next step is overdue."""
        return now > self._due_seconds
