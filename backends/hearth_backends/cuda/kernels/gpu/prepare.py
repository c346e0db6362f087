"""A step's rows from the persistent ones: tokens, positions, slots and block tables in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hearth_backends.cuda.kernels.contract import StepRows
from hearth_backends.cuda.kernels.gpu.launch import search_steps
from hearth_backends.kv.contract import BLOCK_TOKENS

ROWS = 128
COLUMNS = 256


@triton.jit(
    do_not_specialize=["n_rows", "n_seq", "n_columns"],
    do_not_specialize_on_alignment=[
        "tokens", "row_starts", "lengths", "seats", "known", "positions", "slots",
    ],
)  # fmt: skip
def prepare_rows(
    tokens, row_starts, lengths, seats, tables, last, known, positions, slots, copied,
    n_rows, n_seq, table_stride, n_columns,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SEARCH_STEPS: tl.constexpr,
):  # fmt: skip
    """Grid (sequences + n_rows / ROWS,): the first programs copy a table each, the others have rows."""
    program = tl.program_id(0)
    if program < n_seq:
        table = tables + tl.load(seats + program).to(tl.int64) * table_stride
        for first in range(0, n_columns, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            blocks = tl.load(table + column, mask=column < n_columns, other=0)
            at = program.to(tl.int64) * n_columns + column
            tl.store(copied + at, blocks, mask=column < n_columns)
        return
    row = (program - n_seq) * ROWS + tl.arange(0, ROWS)
    mask = row < n_rows
    seq = tl.zeros([ROWS], tl.int32)
    for i in tl.static_range(SEARCH_STEPS):
        probe = seq + (1 << (SEARCH_STEPS - 1 - i))
        start = tl.load(row_starts + probe, mask=probe < n_seq, other=0)
        seq = tl.where((probe < n_seq) & (start <= row), probe, seq)
    end = tl.load(row_starts + seq + 1, mask=mask, other=0)
    length = tl.load(lengths + seq, mask=mask, other=0)
    position = tl.maximum(length - end + row, 0)
    seat = tl.load(seats + seq, mask=mask, other=0).to(tl.int64)
    token = tl.load(tokens + row, mask=mask, other=0)
    sample = tl.load(last + seat, mask=mask & (token < 0), other=0)
    token = tl.maximum(tl.where(token < 0, sample, token), 0)
    block = tl.load(tables + seat * table_stride + position // BLOCK, mask=mask, other=0)
    tl.store(known + row, token, mask=mask)
    tl.store(positions + row, position, mask=mask)
    tl.store(slots + row, block * BLOCK + position % BLOCK, mask=mask)


def prepare(
    tokens: Tensor, row_starts: Tensor, lengths: Tensor, seats: Tensor, tables: Tensor,
    last: Tensor, n_columns: int,
) -> StepRows:  # fmt: skip
    """See Kernels."""
    n_rows, n_seq = len(tokens), len(lengths)
    of_rows = torch.empty((3, n_rows), dtype=torch.int32, device=tokens.device)
    copied = torch.empty((n_seq, n_columns), dtype=torch.int32, device=tokens.device)
    known, positions, slots = of_rows.unbind(0)
    prepare_rows[(n_seq + triton.cdiv(n_rows, ROWS),)](
        tokens, row_starts, lengths, seats, tables, last, known, positions, slots, copied,
        n_rows, n_seq, tables.stride(0), n_columns,
        BLOCK=BLOCK_TOKENS, ROWS=ROWS, COLUMNS=COLUMNS, SEARCH_STEPS=search_steps(n_seq), num_warps=4,
    )  # fmt: skip
    return StepRows(known, positions, slots, copied, row_starts, lengths)
