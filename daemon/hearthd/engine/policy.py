"""Who goes first, and who gives way: pure functions of requests."""

from __future__ import annotations

from collections.abc import Iterable

from hearth_backends.base import Capabilities
from hearthd.engine.request import Request


def rank(request: Request) -> tuple[int, int]:
    """The smaller goes first: higher level, then earlier arrival; a preempted request keeps its place."""
    return (-request.priority.level, request.order)


def victim(running: Iterable[Request]) -> Request | None:
    """The request to preempt: the one that ranks last and is in no step in flight."""
    idle = [request for request in running if not request.n_inflight]
    return max(idle, key=rank, default=None)


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
