"""Slots: keys and values of every row in one buffer, and which slot each row is in.

Attention takes neighbouring slots only, so rows that decode together are brought together: rows are
the store's, slots are the buffer's, and a row may move from one slot to another between two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Arrangement(NamedTuple):
    """Where rows are to sit together, and the swaps of slots that bring them there, in order."""

    first: int
    swaps: tuple[tuple[int, int], ...]


def arrange(slot_of: Sequence[int], rows: Sequence[int], lengths: Sequence[int]) -> Arrangement:
    """The cheapest way for rows to sit in slots side by side, in any order; pure.

    `lengths` of all rows say what a move costs: a swap moves both rows.
    """
    n_slots, n = len(slot_of), len(rows)
    row_in = [0] * n_slots
    for row, slot in enumerate(slot_of):
        row_in[slot] = row
    wanted = {slot_of[row] for row in rows}
    if max(wanted) - min(wanted) + 1 == n:
        return Arrangement(min(wanted), ())
    weights = [lengths[row_in[slot]] + 1 for slot in range(n_slots)]

    def cost(first: int) -> int:
        inside = range(first, first + n)
        strangers = sum(weights[slot] for slot in inside if slot not in wanted)
        absent = sum(weights[slot] for slot in wanted if not first <= slot < first + n)
        return strangers + absent

    first = min(range(n_slots - n + 1), key=cost)
    inside = range(first, first + n)
    strangers = [slot for slot in inside if slot not in wanted]
    absent = sorted(slot for slot in wanted if slot not in inside)
    return Arrangement(first, tuple(zip(absent, strangers, strict=True)))


class Slots:
    """The buffer [layers, keys and values, slots, heads, room, head_dim]; pages nobody wrote cost nothing."""

    def __init__(
        self,
        n_layers: int,
        n_slots: int,
        n_heads: int,
        room: int,
        head_dim: int,
        dtype: np.dtype[Any],
    ) -> None:
        self.data: NDArray[Any] = np.zeros((n_layers, 2, n_slots, n_heads, room, head_dim), dtype)
        self.lengths = [0] * n_slots  # of rows
        self.slot_of = list(range(n_slots))  # of rows

    def view(self, layer: int, which: int, first: int, n: int) -> NDArray[Any]:
        """Keys (0) or values (1) of neighbouring slots: [n, heads, room, head_dim]."""
        return self.data[layer, which, first : first + n]

    def gather(self, rows: Sequence[int]) -> int:
        """Bring rows side by side; the first of their slots."""
        first, swaps = arrange(self.slot_of, rows, self.lengths)
        for a, b in swaps:
            self._swap(a, b)
        return first

    def fork(self, src: int, dst: int, n_tokens: int) -> None:
        """Row dst becomes the first tokens of row src."""
        a, b = self.slot_of[src], self.slot_of[dst]
        if a != b:
            self.data[:, :, b, :, :n_tokens] = self.data[:, :, a, :, :n_tokens]
        self.lengths[dst] = n_tokens

    def truncate(self, row: int, n_tokens: int) -> None:
        """The row keeps its first tokens."""
        self.lengths[row] = min(self.lengths[row], n_tokens)

    def read(self, row: int, n_tokens: int) -> bytes:
        """The first tokens of a row, [layers, keys and values, heads, n_tokens, head_dim]."""
        return self.data[:, :, self.slot_of[row], :, :n_tokens].tobytes()

    def write(self, row: int, state: bytes, n_held: int, n_tokens: int) -> None:
        """Take the first n_tokens of what `read` gave for n_held; raises ValueError for another size."""
        n_layers, two, _, n_heads, _, head_dim = self.data.shape
        held = np.frombuffer(state, self.data.dtype).reshape(
            n_layers, two, n_heads, n_held, head_dim
        )
        self.data[:, :, self.slot_of[row], :, :n_tokens] = held[:, :, :, :n_tokens]
        self.lengths[row] = n_tokens

    def _swap(self, a: int, b: int) -> None:
        """Exchange the rows in two slots."""
        row_a, row_b = self.slot_of.index(a), self.slot_of.index(b)
        n_a, n_b = self.lengths[row_a], self.lengths[row_b]
        kept = self.data[:, :, b, :, :n_b].copy()
        self.data[:, :, b, :, :n_a] = self.data[:, :, a, :, :n_a]
        self.data[:, :, a, :, :n_b] = kept
        self.slot_of[row_a], self.slot_of[row_b] = b, a
