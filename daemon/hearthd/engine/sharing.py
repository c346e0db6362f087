"""StepSharing: who takes part in a step, and how many rows prompts may have in it.

Batch stands still while more urgent prompts are computed. Its own steps are short for as long as such a
prompt is likely to come, so that it need not wait for one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from hearthd.engine import policy
from hearthd.engine.costs import PromptCosts
from hearthd.engine.request import Request

URGENT_SECONDS = 60.0
"""So long after a request above batch, batch is ready for another: none of its steps is long."""
TURN_SECONDS = 1.0
"""Batch with a turn stands still for no longer, however many prompts are more urgent."""


class Shares(NamedTuple):
    """What requests have of a step."""

    decoding: list[Request]
    prompts: list[Request]
    n_rows: int | None  # of prompts; None: as many as there are
    above: int | None  # the level that those have to exceed who are admitted; None: no matter


class Crowd(NamedTuple):
    """Who is there, besides those that can compute something now."""

    running: Sequence[Request]
    head: Request | None  # the first of those that wait
    may_enter: bool  # whether it finds a seat
    n_entering: int  # of those that wait, how many there are seats for


class StepSharing:
    """Divides steps; remembers when there was last something urgent, and when batch last got on."""

    def __init__(
        self, costs: PromptCosts, *, itl_target_seconds: float, aging_seconds: float
    ) -> None:
        """See Scheduler."""
        self._costs = costs
        self._itl_target_seconds = itl_target_seconds
        self._aging_seconds = aging_seconds
        self._urgent_seconds = -math.inf  # when there was last a request above batch
        self._batch_seconds: float | None = None  # when batch last did not stand still

    def share(
        self,
        decoding: list[Request],
        prompts: list[Request],
        crowd: Crowd,
        *,
        prompts_turn: bool,
        now: float,
    ) -> Shares:
        """Divide the next step; `prompts_turn`: where two kinds take turns, it is that of prompts."""
        level = policy.most_urgent(prompts, crowd.head)
        is_urgent = level is not None and level > policy.BATCH_LEVEL
        if is_urgent or any(map(_is_urgent, crowd.running)):
            self._urgent_seconds = now
        # standing still would not help one that waits for the seat of somebody as urgent
        is_helped = crowd.may_enter or any(map(_is_urgent, prompts))
        if is_urgent and is_helped and self._may_stand_still(crowd.running, now):
            decoding, prompts = [*filter(_is_urgent, decoding)], [*filter(_is_urgent, prompts)]
            n_rows = self._rows_beside(decoding, prompts, crowd)
            return Shares(decoding, prompts, n_rows, policy.BATCH_LEVEL)
        self._batch_seconds = now
        if level is None:
            return Shares(decoding, prompts, None, None)
        if is_urgent or now - self._urgent_seconds >= URGENT_SECONDS:
            return Shares(decoding, prompts, self._rows_beside(decoding, prompts, crowd), None)
        n_rows = self._costs.rows_alone(self._itl_target_seconds)
        if prompts_turn:
            decoding = [*filter(_is_urgent, decoding)]
        elif decoding:
            n_rows = 0
        return Shares(decoding, prompts, n_rows, None)

    def _may_stand_still(self, running: Sequence[Request], now: float) -> bool:
        """Whether batch has not stood still for too long."""
        if self._batch_seconds is None:
            return True
        has_turn = any(
            request.level > policy.BATCH_LEVEL >= request.priority.level for request in running
        )
        most_seconds = min(self._aging_seconds, TURN_SECONDS if has_turn else math.inf)
        return now - self._batch_seconds < most_seconds

    def _rows_beside(
        self, decoding: list[Request], prompts: list[Request], crowd: Crowd
    ) -> int | None:
        """Rows of prompts beside streams; None where there are no streams."""
        if not decoding:
            return None
        n_prompts = len(prompts) + crowd.n_entering
        return self._costs.prompt_rows(len(decoding), n_prompts, self._itl_target_seconds)


def _is_urgent(request: Request) -> bool:
    """Whether it is above batch by its own class, whatever turn it was given."""
    return request.priority.level > policy.BATCH_LEVEL
