"""Sizes of a load: what is asked for is kept, what is not asked for fits the budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth_backends.errors import Unsupported
from hearthd.engine.sizing import Room, choose_room

WEIGHTS = 1_000_000
PER_TOKEN = 1_000


def total_bytes(kv_tokens: int) -> int:
    return WEIGHTS + PER_TOKEN * kv_tokens


def room(**asked: int | None) -> Room:
    options: dict[str, int | None] = {
        "context": None, "kv_tokens": None, "budget_bytes": None, **asked,
    }  # fmt: skip
    return choose_room(
        context_trained=8192,
        concurrency=4,
        total_bytes=total_bytes,
        context=options["context"],
        kv_tokens=options["kv_tokens"],
        budget_bytes=options["budget_bytes"],
    )


def test_unbounded_memory_gives_the_trained_context_to_every_sequence() -> None:
    assert room() == Room(8192, 32768)


def test_a_small_budget_halves_the_context_that_nobody_asked_for() -> None:
    assert room(budget_bytes=WEIGHTS + 2 * PER_TOKEN * 3000) == Room(2048, 3000)


def test_a_context_fits_also_where_every_sequence_has_all_of_it() -> None:
    def slots(room: Room) -> int:
        return WEIGHTS + 4 * room.context * PER_TOKEN

    def chosen(context: int | None) -> Room:
        return choose_room(
            context_trained=8192,
            context=context,
            concurrency=4,
            kv_tokens=None,
            budget_bytes=WEIGHTS + 2 * PER_TOKEN * 4 * 3000,
            total_bytes=lambda kv_tokens: slots(Room(1, kv_tokens)),
            room_bytes=slots,
        )

    assert chosen(None) == Room(2048, 8192)
    assert chosen(8000) == Room(8000, 32000)


def test_what_is_asked_for_is_not_made_smaller() -> None:
    assert room(context=8000, budget_bytes=WEIGHTS) == Room(8000, 8000)


def test_contradictions_are_refused_in_words() -> None:
    with pytest.raises(Unsupported, match="trained for 8192"):
        room(context=10_000)
    with pytest.raises(Unsupported, match="no sequence of context = 4096"):
        room(context=4096, kv_tokens=1024)


@given(
    st.none() | st.integers(1, 8192),
    st.none() | st.integers(8192, 100_000),
    st.none() | st.integers(0, 10**9),
)
def test_one_sequence_always_fits(
    context: int | None, kv_tokens: int | None, budget: int | None
) -> None:
    chosen = room(context=context, kv_tokens=kv_tokens, budget_bytes=budget)
    assert 0 < chosen.context <= chosen.kv_tokens
    assert chosen.context == (context or chosen.context)
    assert chosen.kv_tokens == (kv_tokens or chosen.kv_tokens)
