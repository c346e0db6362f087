"""StepPlan: what one step computes, and how it may end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from hearth_backends.kv.contract import Reservation
from hearthd.engine.request import Recalled, Request


class StepOutcome(Enum):
    """How a step ended."""

    COMMITTED = "committed"
    NO_ROOM = "no_room"  # rolled back; somebody is preempted before the next
    RETRY = "retry"  # rolled back; the same work is planned again
    ABANDONED = "abandoned"  # rolled back; it failed too often and its requests are over


@dataclass(slots=True)
class StepPlan:
    """Parallel lists, one entry for each request in the step.

    Request i has rows [starts[i], starts[i] + counts[i]) in flight, of which the last drafts[i] hold
    guesses. Where there is a recalls[i], the first rows are not computed but put back. It samples after its last 1 + drafts[i] rows where samples[i]; scored[i] rows before
    those give log-probabilities of the prompt. Wanted rows stand in this order, request by request.
    """

    requests: list[Request]
    starts: list[int]
    counts: list[int]
    drafts: list[int]
    samples: list[bool]
    scored: list[int]
    reservation: Reservation
    n_rows: int  # that are computed
    is_decode: bool  # every request has one row and samples after it
    recalls: dict[int, Recalled] = field(default_factory=dict)  # by index of the request

    def __len__(self) -> int:
        return len(self.requests)
