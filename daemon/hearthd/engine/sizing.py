"""Sizing: the context, the concurrency and the key-value memory of a load, as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hearth_backends.errors import Unsupported

DEFAULT_KV_TOKENS = 32768
"""Key-value tokens that a load takes unasked, where the context is not longer."""
KV_SHARE = 0.5
"""Of the budget left beside the weights, the share that key-value memory takes unasked."""
LEAST_CONTEXT = 512
"""A context that nobody asked for is not halved below this."""


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens of one sequence, and over all sequences."""

    context: int
    kv_tokens: int


def choose_room(
    *,
    context_trained: int,
    context: int | None,
    concurrency: int,
    kv_tokens: int | None,
    budget_bytes: int | None,
    total_bytes: Callable[[int], int],
    room_bytes: Callable[[Room], int] | None = None,
) -> Room:
    """What was asked for, or as much as a fair share of the budget holds.

    `total_bytes` estimates the whole load for a number of key-value tokens, `room_bytes` for a room:
    memory that every sequence has at full length grows with that alone. What is asked for is never made
    smaller: if it does not fit, the ledger says so. Raises Unsupported for sizes that
    contradict each other or the model.
    """
    if context is not None and context > context_trained:
        raise Unsupported(
            f"context = {context}, but the model was trained for {context_trained} tokens"
        )
    if context is not None and kv_tokens is not None and kv_tokens < context:
        raise Unsupported(f"kv_tokens = {kv_tokens} holds no sequence of context = {context}")
    fixed = total_bytes(0)
    token_bytes = (total_bytes(4096) - fixed) // 4096
    per_token = max(1, token_bytes)
    affordable = None
    if budget_bytes is not None:
        affordable = max(0, int((budget_bytes - fixed) * KV_SHARE)) // per_token
    if context is None:
        context = _context_that_fits(context_trained, kv_tokens or affordable)
        if room_bytes is not None and budget_bytes is not None and not token_bytes:
            most = fixed + int((budget_bytes - fixed) * KV_SHARE)
            context = _context_within(context, most, room_bytes)
    if kv_tokens is None and not token_bytes:  # what it remembers does not grow
        kv_tokens = context * concurrency
    if kv_tokens is None:
        kv_tokens = min(context * concurrency, max(context, DEFAULT_KV_TOKENS))
        if affordable is not None:
            kv_tokens = max(context, min(kv_tokens, affordable))
    return Room(context, kv_tokens)


def _context_within(context: int, most_bytes: int, room_bytes: Callable[[Room], int]) -> int:
    """The context, halved until the load stays within those bytes."""
    while room_bytes(Room(context, context)) > most_bytes and context // 2 >= LEAST_CONTEXT:
        context //= 2
    return context


def _context_that_fits(trained: int, limit: int | None) -> int:
    """The trained context, halved until it is within the limit."""
    context = trained
    while limit is not None and context > limit and context // 2 >= LEAST_CONTEXT:
        context //= 2
    return context
