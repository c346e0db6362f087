"""Ragged attention: rows of many sequences, prompts and single rows mixed, over blocks.

A program takes some rows of one sequence with all heads that share keys. Which sequence is found on the
device: sequence i's programs begin at row_starts[i] // rows + i, which is never too early, so the
grid follows from shapes, and programs beyond a sequence's rows end at once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Attention, LayerMemory, StepRows
from hearth_backends.cuda.kernels.gpu.launch import (
    Shape,
    has_warpgroups,
    next_power,
    or_else,
    parts_of_attention,
    search_steps,
)
from hearth_backends.cuda.kernels.gpu.softmax import LOG2E, NOTHING, absorb, scores


@triton.jit
def _tiles(
    acc, top, total, queries, keys, values, table, low, high, position, n, head, scale, softcap, window,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr, IS_WHOLE: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Absorbs tiles [low, high); IS_WHOLE: every row sees all of them."""
    d, t = tl.arange(0, WIDE), tl.arange(0, TILE)
    in_dim = d < DIM
    for tile in range(low, high):
        token = tile * TILE + t
        is_there = token < n
        if IS_WHOLE:
            block = tl.load(table + token // BLOCK)
        else:
            block = tl.load(table + token // BLOCK, mask=is_there, other=0)
        at = (block.to(tl.int64) * BLOCK + token % BLOCK) * (HEADS * DIM) + head * DIM
        if IS_WHOLE:
            k = tl.load(keys + at[None, :] + d[:, None], mask=in_dim[:, None], other=0.0)
            v = tl.load(values + at[:, None] + d[None, :], mask=in_dim[None, :], other=0.0)
        else:
            k = tl.load(
                keys + at[None, :] + d[:, None], mask=is_there[None, :] & in_dim[:, None], other=0.0
            )
            v = tl.load(
                values + at[:, None] + d[None, :],
                mask=is_there[:, None] & in_dim[None, :],
                other=0.0,
            )
        s = scores(queries, k.to(queries.dtype), scale, softcap, HAS_SOFTCAP, PRECISION)
        if not IS_WHOLE:
            seen = token[None, :] <= position[:, None]
            if HAS_WINDOW:
                seen = seen & (token[None, :] > position[:, None] - window)
            s = tl.where(seen, s, float("-inf"))
        acc, top, total = absorb(acc, top, total, s, v.to(queries.dtype), PRECISION)
    return acc, top, total


@triton.jit(
    do_not_specialize=["n_seq", "table_stride"],
    do_not_specialize_on_alignment=["row_starts", "lengths", "sinks"],
)
def prefill(
    q, keys, values, tables, row_starts, lengths, sinks, out,
    scale, softcap, window, n_seq, q_stride, table_stride,
    HEADS: tl.constexpr, SHARED: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    SEARCH_STEPS: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (rows // TOKENS + sequences, HEADS of keys); TOKENS rows of a sequence in each program."""
    program, head = tl.program_id(0), tl.program_id(1)
    seq = 0
    for i in tl.static_range(SEARCH_STEPS):
        probe = seq + (1 << (SEARCH_STEPS - 1 - i))
        start = tl.load(row_starts + probe, mask=probe < n_seq, other=0) // TOKENS + probe
        seq = tl.where((probe < n_seq) & (start <= program), probe, seq)
    row_start = tl.load(row_starts + seq)
    n_rows = tl.load(row_starts + seq + 1) - row_start
    first_row = (program - row_start // TOKENS - seq) * TOKENS
    if first_row >= n_rows:
        return
    n = tl.load(lengths + seq)
    m, d = tl.arange(0, ROWS), tl.arange(0, WIDE)
    row = first_row + m // SHARED
    q_head = head * SHARED + m % SHARED
    mask = ((m < TOKENS * SHARED) & (row < n_rows))[:, None] & (d < DIM)[None, :]
    at_row = (row_start + row).to(tl.int64)
    queries = tl.load(
        q + at_row[:, None] * q_stride + q_head[:, None] * DIM + d[None, :], mask=mask, other=0.0
    )
    position = n - n_rows + row
    first_position = n - n_rows + first_row
    last_position = tl.minimum(first_position + TOKENS, n) - 1
    high = tl.cdiv(last_position + 1, TILE)
    low = 0
    whole_low = 0
    if HAS_WINDOW:
        low = tl.maximum(first_position - window + 1, 0) // TILE
        whole_low = tl.cdiv(tl.maximum(last_position - window + 1, 0), TILE)
        whole_low = tl.minimum(tl.maximum(whole_low, low), high)
    whole_high = tl.maximum(tl.maximum(first_position + 1, 0) // TILE, whole_low)
    top = tl.full([ROWS], NOTHING, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDE], tl.float32)
    table = tables + seq * table_stride
    if HAS_WINDOW:
        acc, top, total = _tiles(
            acc, top, total, queries, keys, values, table, low, whole_low, position, n, head,
            scale, softcap, window, HEADS, DIM, WIDE, BLOCK, TILE, False, HAS_WINDOW, HAS_SOFTCAP,
            PRECISION,
        )  # fmt: skip
    acc, top, total = _tiles(
        acc, top, total, queries, keys, values, table, whole_low, whole_high, position, n, head,
        scale, softcap, window, HEADS, DIM, WIDE, BLOCK, TILE, True, HAS_WINDOW, HAS_SOFTCAP, PRECISION,
    )  # fmt: skip
    acc, top, total = _tiles(
        acc, top, total, queries, keys, values, table, whole_high, high, position, n, head,
        scale, softcap, window, HEADS, DIM, WIDE, BLOCK, TILE, False, HAS_WINDOW, HAS_SOFTCAP, PRECISION,
    )  # fmt: skip
    if HAS_SINKS:
        total += tl.exp2(tl.load(sinks + q_head) * LOG2E - top)
    share = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    at_out = at_row[:, None] * (HEADS * SHARED * DIM) + q_head[:, None] * DIM + d[None, :]
    tl.store(out + at_out, share.to(out.dtype.element_ty), mask=mask)


def tuning(
    n_rows: int, n_seq: int, shape: Shape, itemsize: int, *, warpgroups: bool
) -> dict[str, int]:
    """Rows of a tile by how many there are of a sequence on average, and what goes with them without spilling."""
    wanted = next_power(-(-n_rows // n_seq) * shape.n_shared)
    is_small = shape.wide * itemsize <= 256
    most = 128 if is_small or warpgroups else 64
    rows = max(16, next_power(shape.n_shared), most if wanted > 16 else 16)
    return {
        "ROWS": rows,
        "TILE": 64 if is_small and warpgroups else 32,
        "num_warps": 8 if rows == most else 4,
        "num_stages": 3 if is_small or warpgroups else 2,
    }


def attend_ragged(
    q: Tensor, memory: LayerMemory, rows: StepRows, how: Attention, out: Tensor
) -> None:
    """See Kernels.attend; any number of rows of each sequence."""
    shape = Shape.of(q, memory.keys)
    tables, lengths = rows.block_tables, rows.lengths
    n_rows, n_seq = len(q), len(lengths)
    tuned = tuning(n_rows, n_seq, shape, q.element_size(), warpgroups=has_warpgroups(q.device))
    tokens = tuned["ROWS"] // shape.n_shared
    prefill[n_rows // tokens + n_seq, shape.n_kv_heads](
        q, *memory, tables, rows.row_starts, lengths, or_else(how.sinks, lengths), out,
        how.scale, how.softcap or 1.0, how.window or 0, n_seq, q.stride(0), tables.stride(0),
        HEADS=shape.n_kv_heads, SHARED=shape.n_shared, DIM=shape.dim, WIDE=shape.wide,
        BLOCK=shape.block, TOKENS=tokens, SEARCH_STEPS=search_steps(n_seq),
        **parts_of_attention(how, q), **tuned,
    )  # fmt: skip
