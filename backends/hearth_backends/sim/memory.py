"""Simulated key-value memory: entries that a step really writes and reads, in four layouts.

Memory is strict: what a store's bookkeeping gets wrong is a BackendError where it can be seen here,
and different text where it cannot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from hearth_backends.base import I32, StageSpec
from hearth_backends.errors import BackendError, CapacityError
from hearth_backends.kv.contract import BLOCK_TOKENS, KVOp, OpKind, Placement
from hearth_backends.sim.language import U64, placed
from hearth_backends.sim.rows import Group, Ints

POISON = np.uint64(0xDEADBEEFDEADBEEF)


class Memory(ABC):
    """What one stage remembers of every sequence."""

    @abstractmethod
    def apply(self, op: KVOp) -> None:
        """Carry out one operation of a reservation."""

    @abstractmethod
    def open(self, groups: Sequence[Group], tokens: I32) -> None:
        """Begin a step: make room for its rows and keep their tokens; raises CapacityError."""

    @abstractmethod
    def attend(self, layer: int, entries: U64) -> U64:
        """Keep the rows' entries of a layer and return what the layer reads at each row."""

    @abstractmethod
    def history(self, row: int) -> I32:
        """The tokens up to a row of the step, as they stand in memory."""

    @abstractmethod
    def take(self, placement: Placement, n_tokens: int) -> tuple[U64, I32]:
        """A sequence's memory for export: entries or states of each layer, and its n_tokens tokens."""

    @abstractmethod
    def put(self, placement: Placement, memory: U64, tokens: I32) -> None:
        """Put what `take` returned into a sequence's place."""


class EntryMemory(Memory):
    """Entries at cells; layouts differ in which cells a sequence's positions are."""

    def __init__(self, spec: StageSpec, n_cells: int) -> None:
        self._entries = np.full((spec.last - spec.first, n_cells), POISON, np.uint64)
        self._tokens = np.full(n_cells, -1, np.int32)
        none = np.zeros(0, np.int64)
        self._cells = self._written = self._offsets = self._positions = none

    @abstractmethod
    def extend(self, group: Group) -> Ints:
        """The cells of positions [0, group.end), those of the group's rows made ready to write."""

    @abstractmethod
    def cells(self, placement: Placement, n_tokens: int) -> Ints:
        """The cells of a sequence's first n_tokens; raises BackendError if it has fewer."""

    def open(self, groups: Sequence[Group], tokens: I32) -> None:
        cells = [self.extend(group) for group in groups]
        ends = np.array([group.end for group in groups], np.int64)
        counts = np.array([group.n_rows for group in groups], np.int64)
        begins = np.r_[0, np.cumsum(ends)[:-1]]
        self._cells = np.concatenate(cells)
        self._positions = np.arange(len(self._cells)) - np.repeat(begins, ends)
        self._offsets = np.repeat(begins, counts)
        within = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._written = self._offsets + np.repeat(ends - counts, counts) + within
        written = self._cells[self._written]
        if len(np.unique(written)) < len(written):
            raise BackendError("two rows of a step are written to one cell")
        self._tokens[written] = tokens

    def attend(self, layer: int, entries: U64) -> U64:
        memory = self._entries[layer]
        memory[self._cells[self._written]] = entries
        sums = np.cumsum(placed(memory[self._cells], self._positions), dtype=np.uint64)
        sums = np.concatenate([np.zeros(1, np.uint64), sums])
        read: U64 = sums[self._written + 1] - sums[self._offsets]
        return read

    def history(self, row: int) -> I32:
        return self._tokens[self._cells[self._offsets[row] : self._written[row] + 1]]

    def take(self, placement: Placement, n_tokens: int) -> tuple[U64, I32]:
        cells = self.cells(placement, n_tokens)
        return self._entries[:, cells], self._tokens[cells]

    def put(self, placement: Placement, memory: U64, tokens: I32) -> None:
        cells = self.extend(Group(placement, 0, 0, len(tokens)))
        self._entries[:, cells] = memory
        self._tokens[cells] = tokens

    def _poison(self, cells: Ints) -> None:
        self._entries[:, cells] = POISON
        self._tokens[cells] = -1


class BlockMemory(EntryMemory):
    """Pages of BLOCK_TOKENS cells; the placement's block table says where a sequence is."""

    def __init__(self, spec: StageSpec, n_blocks: int) -> None:
        super().__init__(spec, n_blocks * BLOCK_TOKENS)

    def apply(self, op: KVOp) -> None:
        if op.kind is not OpKind.TRUNCATE:
            raise BackendError(f"paged memory has no {op.kind.value}: its block tables say it all")

    def extend(self, group: Group) -> Ints:
        return self.cells(group.placement, group.end)

    def cells(self, placement: Placement, n_tokens: int) -> Ints:
        if len(placement.blocks) * BLOCK_TOKENS < n_tokens:
            raise BackendError(f"{n_tokens} tokens in {len(placement.blocks)} blocks")
        table = np.array(placement.blocks, np.int64)[:, None] * BLOCK_TOKENS
        return (table + np.arange(BLOCK_TOKENS)).ravel()[:n_tokens]


class SlotMemory(EntryMemory):
    """A row of n_ctx cells for each sequence; a fork copies, writing over what was there is allowed."""

    def __init__(self, spec: StageSpec) -> None:
        super().__init__(spec, spec.n_seq * spec.n_ctx)
        self._n_ctx = spec.n_ctx
        self._lengths = [0] * spec.n_seq

    def apply(self, op: KVOp) -> None:
        match op.kind:
            case OpKind.TRUNCATE:
                self._shorten(op.dst, op.n_tokens)
            case OpKind.FORK:
                source = self.cells(Placement(op.src), op.n_tokens)
                memory, tokens = self._entries[:, source], self._tokens[source]
                self._shorten(op.dst, 0)
                self.put(Placement(op.dst), memory, tokens)
            case _:
                raise BackendError(f"slots have no {op.kind.value}")

    def extend(self, group: Group) -> Ints:
        row = group.placement.row
        if self._lengths[row] < group.start:
            raise BackendError(f"row {row} has {self._lengths[row]} tokens, not {group.start}")
        self._lengths[row] = group.end
        return self.cells(group.placement, group.end)

    def cells(self, placement: Placement, n_tokens: int) -> Ints:
        if n_tokens > self._lengths[placement.row]:
            raise BackendError(
                f"row {placement.row} has {self._lengths[placement.row]} tokens, not {n_tokens}"
            )
        return placement.row * self._n_ctx + np.arange(n_tokens)

    def _shorten(self, row: int, n_tokens: int) -> None:
        self._poison(row * self._n_ctx + np.arange(n_tokens, self._n_ctx))
        self._lengths[row] = min(self._lengths[row], n_tokens)


class CellMemory(EntryMemory):
    """One pool of cells; a fork shares them, and rows grow only at their end, as in llama.cpp."""

    def __init__(self, spec: StageSpec, n_cells: int) -> None:
        super().__init__(spec, n_cells)
        self._rows: list[list[int]] = [[] for _ in range(spec.n_seq)]
        self._n_users = [0] * n_cells
        self._free = list(range(n_cells))[::-1]

    def apply(self, op: KVOp) -> None:
        match op.kind:
            case OpKind.TRUNCATE:
                self._shorten(op.dst, op.n_tokens)
            case OpKind.FORK:
                shared = self.cells(Placement(op.src), op.n_tokens).tolist()
                if shared == self._rows[op.dst]:
                    return
                for cell in shared:
                    self._n_users[cell] += 1
                self._shorten(op.dst, 0)
                self._rows[op.dst] = shared
            case _:
                raise BackendError(f"cells have no {op.kind.value}")

    def open(self, groups: Sequence[Group], tokens: I32) -> None:
        if len(tokens) > len(self._free):
            raise CapacityError(f"{len(tokens)} rows, but only {len(self._free)} free cells")
        super().open(groups, tokens)

    def extend(self, group: Group) -> Ints:
        row = self._rows[group.placement.row]
        if len(row) != group.start:
            raise BackendError(
                f"row {group.placement.row} has {len(row)} tokens, not {group.start}"
            )
        for _ in range(group.n_rows):
            cell = self._free.pop()
            self._n_users[cell] = 1
            row.append(cell)
        return np.array(row, np.int64)

    def cells(self, placement: Placement, n_tokens: int) -> Ints:
        row = self._rows[placement.row]
        if n_tokens > len(row):
            raise BackendError(f"row {placement.row} has {len(row)} tokens, not {n_tokens}")
        return np.array(row[:n_tokens], np.int64)

    def _shorten(self, row: int, n_tokens: int) -> None:
        dropped = self._rows[row][n_tokens:]
        del self._rows[row][n_tokens:]
        for cell in dropped:
            self._n_users[cell] -= 1
        freed = [cell for cell in dropped if not self._n_users[cell]]
        self._poison(np.array(freed, np.int64))
        self._free += freed


class StateMemory(Memory):
    """One running state for each row, and saved copies: a recurrent model cannot step back."""

    def __init__(self, spec: StageSpec) -> None:
        n_layers = spec.last - spec.first
        self._sums = np.zeros((n_layers, spec.n_seq), np.uint64)
        self._tokens: list[list[int]] = [[] for _ in range(spec.n_seq)]
        self._saved: dict[int, tuple[U64, list[int]]] = {}
        self._groups: Sequence[Group] = ()

    def apply(self, op: KVOp) -> None:
        match op.kind:
            case OpKind.TRUNCATE:
                self._shorten(op.dst, op.n_tokens)
            case OpKind.SAVE:
                self._check_length(op.src, op.n_tokens)
                self._saved[op.dst] = (self._sums[:, op.src].copy(), list(self._tokens[op.src]))
            case OpKind.LOAD:
                sums, tokens = self._saved[op.src]
                if len(tokens) != op.n_tokens:
                    raise BackendError(
                        f"state {op.src} has {len(tokens)} tokens, not {op.n_tokens}"
                    )
                self._sums[:, op.dst], self._tokens[op.dst] = sums, list(tokens)
            case OpKind.DROP:
                self._saved.pop(op.src, None)
            case OpKind.FORK:
                self._check_length(op.src, op.n_tokens)
                self._sums[:, op.dst] = self._sums[:, op.src]
                self._tokens[op.dst] = list(self._tokens[op.src])

    def open(self, groups: Sequence[Group], tokens: I32) -> None:
        self._groups = groups
        for group in groups:
            self._check_length(group.placement.row, group.start)
            self._tokens[group.placement.row] += tokens[
                group.first : group.first + group.n_rows
            ].tolist()

    def attend(self, layer: int, entries: U64) -> U64:
        read = np.empty_like(entries)
        for group in self._groups:
            rows = slice(group.first, group.first + group.n_rows)
            steps = placed(entries[rows], np.arange(group.start, group.end))
            steps[0:1] += self._sums[layer, group.placement.row]
            read[rows] = np.cumsum(steps, dtype=np.uint64)
            self._sums[layer, group.placement.row] = read[rows][-1]
        return read

    def history(self, row: int) -> I32:
        group = next(g for g in self._groups if g.first <= row < g.first + g.n_rows)
        tokens = self._tokens[group.placement.row][: group.start + row - group.first + 1]
        return np.array(tokens, np.int32)

    def take(self, placement: Placement, n_tokens: int) -> tuple[U64, I32]:
        self._check_length(placement.row, n_tokens)
        tokens = np.array(self._tokens[placement.row], np.int32)
        return self._sums[:, placement.row].copy(), tokens

    def put(self, placement: Placement, memory: U64, tokens: I32) -> None:
        self._sums[:, placement.row], self._tokens[placement.row] = memory, tokens.tolist()

    def _shorten(self, row: int, n_tokens: int) -> None:
        if not n_tokens:
            self._sums[:, row], self._tokens[row] = 0, []
        self._check_length(row, n_tokens)

    def _check_length(self, row: int, n_tokens: int) -> None:
        if len(self._tokens[row]) != n_tokens:
            raise BackendError(f"row {row} is at {len(self._tokens[row])} tokens, not {n_tokens}")
