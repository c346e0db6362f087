"""RequestTimeline: the moments of one request, from its arrival to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["stop", "length", "cancelled", "error", "rejected", "shed", "expired"]
"""How a request ended; "rejected" before anything was computed for it.

The deadline of a "shed" one could not be met, or had passed, before its first token; that of an
"expired" one passed after it.
"""


@dataclass(slots=True)
class RequestTimeline:
    """Filled while the request goes on, read once when it has ended; None is what never came.

    Moments are seconds of the monotonic clock.
    """

    model: str
    klass: str  # interactive | normal | batch
    arrived_seconds: float
    key: str = "anonymous"  # name in the configuration
    backend: str | None = None
    admitted_seconds: float | None = None  # handed to an engine
    started_seconds: float | None = None  # left the engine's queue
    first_token_seconds: float | None = None
    finished_seconds: float | None = None
    outcome: Outcome | None = None
    n_prompt: int = 0
    n_output: int = 0
    n_cached: int = 0
    n_preempted: int = 0
    refusal: str | None = None  # code of the error, where it was not admitted

    @property
    def queue_seconds(self) -> float | None:
        """From arrival until the engine began to compute."""
        return _between(self.arrived_seconds, self.started_seconds)

    @property
    def ttft_seconds(self) -> float | None:
        """From arrival to the first token."""
        return _between(self.arrived_seconds, self.first_token_seconds)

    @property
    def e2e_seconds(self) -> float | None:
        """From arrival to the end."""
        return _between(self.arrived_seconds, self.finished_seconds)

    @property
    def tpot_seconds(self) -> float | None:
        """Mean time of an output token after the first; None with fewer than two."""
        generating = _between(self.first_token_seconds, self.finished_seconds)
        if generating is None or self.n_output < 2:
            return None
        return generating / (self.n_output - 1)


def _between(start: float | None, end: float | None) -> float | None:
    if start is None or end is None:
        return None
    return max(0.0, end - start)
