"""Who goes first, and who gives way: pure functions of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hearth_backends.base import Capabilities
from hearthd.engine.request import Request

BATCH_LEVEL = -1
"""Requests of this level and below give way to all above, while they run."""


SURE_SHARE = 0.7
"""Of the measured time: what a prompt takes at least, whatever the next measurement says."""


def rank(request: Request) -> tuple[int, int]:
    """Among those that run, the smaller goes first: higher level, then earlier arrival."""
    return (-request.level, request.order)


def waiting_rank(request: Request, served: float) -> tuple[int, bool, float, int]:
    """Among those that wait: higher level; who was given a turn; whose key was served least; arrival."""
    return (-request.level, request.level == request.priority.level, served, request.order)


def victim(running: Iterable[Request]) -> Request | None:
    """The request to preempt: the one that ranks last and is in no step in flight."""
    idle = [request for request in running if not request.n_inflight]
    return max(idle, key=rank, default=None)


def most_urgent(prompts: Iterable[Request], head: Request | None) -> int | None:
    """The highest class among running prompts and who waits, whatever turns were given; None without any."""
    levels = [request.priority.level for request in prompts]
    if head is not None:
        levels.append(head.priority.level)
    return max(levels, default=None)


def gives_way(head: Request, running: Iterable[Request]) -> Request | None:
    """The request that has to leave its seat for one that waits; None where nobody has to."""
    if head.level <= BATCH_LEVEL:
        return None
    return max((r for r in running if r.level <= BATCH_LEVEL), key=rank, default=None)


def due_a_turn(
    oldest: Mapping[int, Request],
    latest_turns: Mapping[int, float],
    aging_seconds: float,
    now: float,
) -> list[Request]:
    """Of each class with more urgent ones before it, the oldest request if it has waited too long.

    One at a time: a class with much to do does not become urgent by having much to do.
    """
    top = max(oldest, default=0)
    return [
        request
        for level, request in oldest.items()
        if level < top
        and now - request.queued_seconds >= aging_seconds
        and now - latest_turns.get(level, float("-inf")) >= aging_seconds
    ]


def prompt_order(prompts: Sequence[Request], *, shortest_first: bool) -> list[Request]:
    """Running prompts in the order in which a step takes chunks of them.

    By level; within one, the shortest rest and the oldest go first in turns: the short ones are soon
    done, and the long ones get on.
    """

    def key(request: Request) -> tuple[int, int, int]:
        rest = len(request.tokens) - request.n_computed - request.n_inflight
        return (-request.level, rest if shortest_first else 0, request.order)

    return sorted(prompts, key=key)


def has_expired(request: Request, now: float) -> bool:
    """Whether its deadline has passed."""
    deadline = request.priority.deadline_seconds
    return deadline is not None and now >= deadline


def is_hopeless(request: Request, row_seconds: float | None, now: float) -> bool:
    """Whether its first token cannot come in time, however fast its prompt is computed.

    `row_seconds`: of a row that has the stages for itself; None is unknown.
    """
    deadline = request.priority.deadline_seconds
    if deadline is None or row_seconds is None or request.n_output:
        return False
    n_rows = request.n_prompt - request.n_computed - request.n_inflight
    return now + SURE_SHARE * n_rows * row_seconds > deadline


def admission_margin_tokens(n_running: int, block_tokens: int) -> int:
    """Room left beside a new prompt, so that running requests do not have to preempt it at once."""
    return n_running * block_tokens


def rows_to_checkpoint(start: int, n_rows: int, n_tokens: int, block_tokens: int) -> int:
    """A chunk of n_rows at `start`, cut to end with the last block that can be shared, if it reaches one.

    States are saved where a step ends with a block; the last token is never part of a prefix.
    """
    last = min(start + n_rows, n_tokens - 1) // block_tokens * block_tokens
    return last - start if last > start else n_rows


def draft_refusal(caps: Capabilities) -> str | None:
    """Why stages cannot take guesses, in words; None where they can."""
    if caps.rollback != "any":
        return "drafting needs memory that can step back by a token; this model's states cannot"
    if not (caps.mixed and caps.ragged):
        return "drafting needs sequences with different numbers of rows in one step"
    return None
