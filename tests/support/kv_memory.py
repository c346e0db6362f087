"""Memories that do what a store's operations and placements say, to be compared with what it claims."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Protocol

from hearth_backends.kv.contract import BLOCK_TOKENS, KVOp, OpKind, Placement


class Memory(Protocol):
    """Key-value memory whose contents are tokens."""

    def apply(self, op: KVOp) -> None: ...

    def read(self, placement: Placement, n: int) -> list[int]:
        """The first n tokens of a sequence; where it must, the memory holds exactly those."""

    def write(self, placement: Placement, start: int, tokens: Sequence[int]) -> None: ...

    def check_room(self) -> None:
        """Fail where more is held than there is."""


class RowMemory:
    """Rows of cells; a fork shares cells, and a write goes to the end of its row."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.rows: dict[int, list[tuple[int, int]]] = {}  # row -> (cell, token)
        self._numbers = count()

    def apply(self, op: KVOp) -> None:
        if op.kind is OpKind.FORK:
            source = self.rows.get(op.src, [])
            assert len(source) >= op.n_tokens, "a fork reads more than its source holds"
            self.rows[op.dst] = source[: op.n_tokens]
        else:
            assert op.kind is OpKind.TRUNCATE
            self.rows[op.dst] = self.rows.get(op.dst, [])[: op.n_tokens]

    def read(self, placement: Placement, n: int) -> list[int]:
        row = self.rows.get(placement.row, [])
        assert len(row) == n, f"row {placement.row} holds {len(row)} tokens, not {n}"
        return [token for _, token in row]

    def write(self, placement: Placement, start: int, tokens: Sequence[int]) -> None:
        row = self.rows.setdefault(placement.row, [])
        self.rows[placement.row] = row[:start] + [(next(self._numbers), t) for t in tokens]

    def check_room(self) -> None:
        cells = {cell for row in self.rows.values() for cell, _ in row}
        assert len(cells) <= self.n_cells, "more cells are held than there are"


class SlotMemory(RowMemory):
    """Rows of n_ctx tokens each."""

    def __init__(self, n_ctx: int) -> None:
        super().__init__(0)
        self.n_ctx = n_ctx

    def check_room(self) -> None:
        assert all(len(row) <= self.n_ctx for row in self.rows.values())


class BlockMemory:
    """Blocks; nothing but the tables says who has them."""

    def __init__(self) -> None:
        self.blocks: dict[int, list[int]] = {}

    def apply(self, op: KVOp) -> None:
        raise AssertionError(f"a paged store needs no {op.kind}")

    def read(self, placement: Placement, n: int) -> list[int]:
        tokens: list[int] = []
        for block in placement.blocks[: -(-n // BLOCK_TOKENS)]:
            tokens += self.blocks.get(block, [-1] * BLOCK_TOKENS)
        return tokens[:n]

    def write(self, placement: Placement, start: int, tokens: Sequence[int]) -> None:
        assert 0 not in placement.blocks, "the null block was handed out"
        for position, token in enumerate(tokens, start):
            block = placement.blocks[position // BLOCK_TOKENS]
            self.blocks.setdefault(block, [-1] * BLOCK_TOKENS)[position % BLOCK_TOKENS] = token

    def check_room(self) -> None:
        pass


class StateMemory:
    """One state a row, which only moves forward, and copies of it."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = {}
        self.saved: dict[int, list[int]] = {}

    def apply(self, op: KVOp) -> None:
        match op.kind:
            case OpKind.SAVE:
                row = self.rows.get(op.src, [])
                assert len(row) == op.n_tokens, "a state is saved that the row is not in"
                self.saved[op.dst] = list(row)
            case OpKind.LOAD:
                assert len(self.saved[op.src]) == op.n_tokens, "another state was loaded"
                self.rows[op.dst] = list(self.saved[op.src])
            case OpKind.DROP:
                self.saved.pop(op.src, None)
            case _:
                assert op.kind is OpKind.TRUNCATE
                assert op.n_tokens == 0, "a state cannot step back"
                self.rows[op.dst] = []

    def read(self, placement: Placement, n: int) -> list[int]:
        row = self.rows.get(placement.row, [])
        assert len(row) == n, f"row {placement.row} is at {len(row)} tokens, not {n}"
        return list(row)

    def write(self, placement: Placement, start: int, tokens: Sequence[int]) -> None:
        self.rows[placement.row] = self.rows.get(placement.row, []) + list(tokens)

    def check_room(self) -> None:
        pass


class HybridMemory(StateMemory):
    """States that hold keys and values too: rows have room for so many tokens, and copies for so many."""

    def __init__(self, n_tokens: int, n_copied: int) -> None:
        super().__init__()
        self._n_tokens = n_tokens
        self._n_copied = n_copied

    def check_room(self) -> None:
        assert sum(map(len, self.rows.values())) <= self._n_tokens, "more tokens than there is room"
        assert sum(map(len, self.saved.values())) <= self._n_copied, (
            "more copies than there is room"
        )
