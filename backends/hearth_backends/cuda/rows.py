"""HostRows: what one step computes, as arrays; and the persistent rows on the device that it refers to.

Block tables and each row's last sampled token stay on the device from step to step. A step brings
what is new in one array of integers, which goes there in one copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hearth_backends.base import I32, Batch, StageSpec
from hearth_backends.errors import BackendError
from hearth_backends.kv.contract import BLOCK_TOKENS, Placement

_NOBODY = Placement(-1)
_NO_CHANGES: I32 = np.zeros((0, 3), np.int32)
N_ROWS_ARRAYS, SEATS = 5, 3
"""Of `HostRows.arrays`: how many there are, and which says where sequences sit."""


@dataclass(frozen=True, slots=True)
class HostRows:
    """n ragged rows of s sequences, and what a step changes in the block tables."""

    tokens: I32  # [n]; -1: the row's last sample
    row_starts: I32
    lengths: I32
    seats: I32  # [s] the persistent row of each sequence
    wanted: I32  # [k] rows whose logits are asked for
    changes: I32  # [c, 3] row, column, block

    @property
    def is_decode(self) -> bool:
        return len(self.tokens) == len(self.lengths)

    def padded(self, n: int, null_row: int) -> HostRows:
        """A decode step filled up to n sequences with rows of nobody, which write to the null block."""
        extra = n - len(self.tokens)
        zeros = np.zeros(extra, np.int32)
        return HostRows(
            tokens=np.concatenate([self.tokens, zeros]),
            row_starts=np.arange(n + 1, dtype=np.int32),
            lengths=np.concatenate([self.lengths, zeros]),
            seats=np.concatenate([self.seats, np.full(extra, null_row, np.int32)]),
            wanted=np.arange(n, dtype=np.int32),
            changes=self.changes,
        )

    def arrays(self) -> tuple[I32, ...]:
        """All but the changes, in the order of the fields."""
        return self.tokens, self.row_starts, self.lengths, self.seats, self.wanted


def nobodys_step(n: int, null_row: int) -> HostRows:
    """A decode step of n sequences that are nobody's: each writes one token to the null block."""
    return HostRows(
        tokens=np.zeros(n, np.int32),
        row_starts=np.arange(n + 1, dtype=np.int32),
        lengths=np.ones(n, np.int32),
        seats=np.full(n, null_row, np.int32),
        wanted=np.arange(n, dtype=np.int32),
        changes=_NO_CHANGES,
    )


def nobodys_prompt(n: int, null_row: int, n_wanted: int) -> HostRows:
    """One sequence of n tokens that is nobody's: it is written to the null block and forgotten."""
    return HostRows(
        tokens=np.zeros(n, np.int32),
        row_starts=np.array([0, n], np.int32),
        lengths=np.array([n], np.int32),
        seats=np.array([null_row], np.int32),
        wanted=np.arange(n, dtype=np.int32)[-n_wanted:],
        changes=_NO_CHANGES,
    )


class Rows:
    """The persistent rows of a stage: block tables and last samples, and what the host knows of them."""

    def __init__(self, spec: StageSpec, device: torch.device) -> None:
        self.null_row = spec.n_seq
        self._spec = spec
        self.n_columns = -(-spec.n_ctx // BLOCK_TOKENS)
        shape = (spec.n_seq + 1, self.n_columns)  # the last row is nobody's
        self.tables = torch.zeros(shape, dtype=torch.int32, device=device)
        self.last = torch.zeros(spec.n_seq + 1, dtype=torch.int32, device=device)
        self._mirror = np.zeros(shape, np.int32)
        self._seated = [_NOBODY] * spec.n_seq
        self.sampled_at = [-1] * spec.n_seq
        """Of each row, the position that its last sample on the device is for; -1: none."""

    def prepare(self, batch: Batch) -> HostRows:
        """A batch as arrays; raises BackendError for one that the stage must not be given."""
        n = len(batch.tokens)
        starts = np.flatnonzero(np.diff(batch.seq, prepend=-1)).astype(np.int32)
        row_starts = np.append(starts, np.int32(n))
        self._check(batch, starts)
        ends = batch.pos[row_starts[1:] - 1] + 1
        changes = [c for p in batch.placements if (c := self._seat(p)) is not None]
        return HostRows(
            tokens=batch.tokens,
            row_starts=row_starts,
            lengths=ends.astype(np.int32),
            seats=batch.seq[starts],
            wanted=np.flatnonzero(batch.want).astype(np.int32),
            changes=np.concatenate(changes) if changes else _NO_CHANGES,
        )

    def _check(self, batch: Batch, starts: I32) -> None:
        n, spec = len(batch.tokens), self._spec
        if n > spec.n_rows:
            raise BackendError(f"a batch of {n} rows in a stage of {spec.n_rows}")
        seats = batch.seq[starts].tolist()
        if seats != [p.row for p in batch.placements] or len(set(seats)) < len(seats):
            raise BackendError(f"rows of sequences {seats} with placements of others")
        if min(seats) < 0 or max(seats) >= spec.n_seq or int(batch.pos.max()) >= spec.n_ctx:
            raise BackendError(f"rows {seats} in a stage of {spec.n_seq} of {spec.n_ctx} tokens")
        for placement, end in zip(batch.placements, [*starts[1:].tolist(), n], strict=True):
            if int(batch.pos[end - 1]) >= len(placement.blocks) * BLOCK_TOKENS:
                raise BackendError(f"row {placement.row} has {len(placement.blocks)} blocks only")
        steps = np.diff(batch.pos)
        steps[starts[1:] - 1] = 1
        if (steps != 1).any():
            raise BackendError("positions that do not follow each other")
        for at in np.flatnonzero(batch.tokens < 0).tolist():
            row, position = int(batch.seq[at]), int(batch.pos[at])
            if self.sampled_at[row] != position:
                raise BackendError(f"row {row} has no sample for position {position}")

    def _seat(self, placement: Placement) -> I32 | None:
        """Have a row's table say what a placement says; the changes [c, 3], None where there are none."""
        row, blocks = placement.row, placement.blocks
        if self._seated[row] is placement:
            return None
        self._seated[row] = placement
        table = np.array(blocks, np.int32)
        columns = np.flatnonzero(self._mirror[row, : len(table)] != table)
        if not len(columns):
            return None
        self._mirror[row, columns] = table[columns]
        rows = np.full(len(columns), row)
        return np.stack([rows, columns, table[columns]], axis=1).astype(np.int32)

    def forget(self) -> None:
        """A step failed between here and the device: whatever tables say there, they are sent again."""
        self._mirror[:] = -1
        self._seated = [_NOBODY] * self._spec.n_seq

    def apply(self, changes: Tensor) -> None:
        """Change block tables on the device [c, 3]."""
        self.tables.index_put_((changes[:, 0], changes[:, 1]), changes[:, 2])

    def remember(self, batch: Batch) -> I32:
        """Where each sample of a batch goes in `last` [k]; the null row where another of its row follows it."""
        assert batch.sampling is not None
        wanted = np.flatnonzero(batch.want)
        rows = batch.seq[wanted].astype(np.int32)
        is_last = np.append(rows[1:] != rows[:-1], True) & (batch.sampling.targets < 0)
        for row, position in zip(
            rows[is_last].tolist(), batch.pos[wanted[is_last]].tolist(), strict=True
        ):
            self.sampled_at[row] = position + 1
        return np.where(is_last, rows, self.null_row).astype(np.int32)
