"""Slots: rows that are brought together keep what they hold, and no more is moved than must be."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hearth_backends.onnx.slots import Slots, arrange

N = 7


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Which slot each row is in, rows that are to be neighbours, and lengths."""
    slot_of = draw(st.permutations(range(N)))
    rows = draw(st.lists(st.sampled_from(range(N)), min_size=1, unique=True))
    lengths = draw(st.lists(st.integers(0, 9), min_size=N, max_size=N))
    return slot_of, rows, lengths


@given(situations())
def test_rows_become_neighbours(situation: tuple[list[int], list[int], list[int]]) -> None:
    slot_of, rows, lengths = situation
    first, swaps = arrange(slot_of, rows, lengths)
    slots = list(slot_of)
    for a, b in swaps:
        i, j = slots.index(a), slots.index(b)
        slots[i], slots[j] = slots[j], slots[i]
    assert sorted(slots[row] for row in rows) == list(range(first, first + len(rows)))
    assert len(swaps) <= len(rows)


@given(situations())
def test_neighbours_stay_where_they_are(situation: tuple[list[int], list[int], list[int]]) -> None:
    slot_of, _, lengths = situation
    rows = [slot_of.index(slot) for slot in (2, 3, 4)]
    assert arrange(slot_of, rows, lengths) == (2, ())


def test_short_rows_are_moved_rather_than_long_ones() -> None:
    lengths = [900, 900, 5, 900, 900, 1, 900]
    assert arrange(range(N), [0, 1, 5], lengths) == (0, ((5, 2),))
    assert arrange(range(N), [5, 3, 4], lengths) == (3, ())


@given(st.lists(situations(), min_size=1, max_size=6))
def test_rows_keep_what_they_hold(
    situations: list[tuple[list[int], list[int], list[int]]],
) -> None:
    slots = Slots(2, N, 1, 10, 3, np.dtype(np.int8))
    held: dict[int, bytes] = {}
    for number, (_, rows, lengths) in enumerate(situations):
        for row in rows:
            state = bytes([(number * N + row) % 100] * (2 * 2 * lengths[row] * 3))
            slots.write(row, state, lengths[row], lengths[row])
            held[row] = state
        first = slots.gather(rows)
        assert sorted(slots.slot_of[row] for row in rows) == list(range(first, first + len(rows)))
        assert sorted(slots.slot_of) == list(range(N))
        for row, state in held.items():
            assert slots.read(row, slots.lengths[row]) == state
