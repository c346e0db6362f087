"""Paged decode: one row of each sequence; heads that share keys ride in one tile, long contexts are split.

The grid depends on shapes alone and lengths are read on the device, so a launch can be recorded. Each
split leaves its unscaled sum and the state of its softmax, a second kernel joins them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Attention, LayerMemory, StepRows
from hearth_backends.cuda.kernels.gpu.launch import (
    Shape,
    n_processors,
    next_power,
    or_else,
    parts_of_attention,
)
from hearth_backends.cuda.kernels.gpu.softmax import LOG2E, NOTHING, absorb, scores

TILE = 64
PROGRAMS_PER_PROCESSOR = 4
SPLIT_TOKENS = 512
"""A split has at least so many tokens of the longest context that its table holds: less is not worth the joining."""
LONG_TOKENS = 8192
"""From here on there are two splits even where sequences alone fill the device: their lengths differ."""


@triton.jit
def _span(n, split, window, TILE: tl.constexpr, SPLITS: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """First and last tile of a split, and the first token that is seen."""
    first = n * 0
    if HAS_WINDOW:
        first = tl.maximum(n - window, 0)
    first_tile = first // TILE
    last_tile = tl.cdiv(n, TILE)
    per_split = tl.cdiv(last_tile - first_tile, SPLITS)
    low = first_tile + split * per_split
    return low, tl.minimum(low + per_split, last_tile), first


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=["lengths", "sinks"])
def decode(
    q, keys, values, tables, lengths, sinks, out, sums, tops, totals,
    scale, softcap, window, q_stride, table_stride,
    HEADS: tl.constexpr, SHARED: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SINKS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, HEADS of keys, SPLITS); SHARED heads of queries to each."""
    seq, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n = tl.load(lengths + seq)
    low, high, first = _span(n, split, window, TILE, SPLITS, HAS_WINDOW)
    if SPLITS > 1:
        if low >= high:
            return
    row, d, t = tl.arange(0, ROWS), tl.arange(0, WIDE), tl.arange(0, TILE)
    of_head = row < SHARED
    in_dim = d < DIM
    q_head = head * SHARED + row
    queries = tl.load(
        q + seq.to(tl.int64) * q_stride + q_head[:, None] * DIM + d[None, :],
        mask=of_head[:, None] & in_dim[None, :],
        other=0.0,
    )
    top = tl.full([ROWS], NOTHING, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDE], tl.float32)
    for tile in range(low, high):
        token = tile * TILE + t
        seen = token < n
        if HAS_WINDOW:
            seen = seen & (token >= first)
        block = tl.load(tables + seq * table_stride + token // BLOCK, mask=seen, other=0)
        at = (block.to(tl.int64) * BLOCK + token % BLOCK) * (HEADS * DIM) + head * DIM
        k = tl.load(
            keys + at[None, :] + d[:, None], mask=seen[None, :] & in_dim[:, None], other=0.0
        )
        v = tl.load(
            values + at[:, None] + d[None, :], mask=seen[:, None] & in_dim[None, :], other=0.0
        )
        s = scores(queries, k.to(queries.dtype), scale, softcap, HAS_SOFTCAP, PRECISION)
        s = tl.where(seen[None, :], s, float("-inf"))
        acc, top, total = absorb(acc, top, total, s, v.to(queries.dtype), PRECISION)
    at_head = seq * (HEADS * SHARED) + q_head
    if SPLITS > 1:
        place = at_head * SPLITS + split
        tl.store(
            sums + place[:, None].to(tl.int64) * DIM + d[None, :],
            acc,
            mask=of_head[:, None] & in_dim[None, :],
        )
        tl.store(tops + place, top, mask=of_head)
        tl.store(totals + place, total, mask=of_head)
    else:
        if HAS_SINKS:
            sink = tl.load(sinks + q_head, mask=of_head, other=0.0) * LOG2E
            total += tl.exp2(sink - top)
        share = acc / tl.where(total > 0.0, total, 1.0)[:, None]
        tl.store(
            out + at_head[:, None].to(tl.int64) * DIM + d[None, :],
            share.to(out.dtype.element_ty),
            mask=of_head[:, None] & in_dim[None, :],
        )


@triton.jit(do_not_specialize_on_alignment=["lengths", "sinks"])
def join(
    sums, tops, totals, lengths, sinks, out, window,
    N_HEADS: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, SPLITS_WIDE: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):  # fmt: skip
    """Grid (sequences, N_HEADS of queries)."""
    seq, head = tl.program_id(0), tl.program_id(1)
    n = tl.load(lengths + seq)
    split, d = tl.arange(0, SPLITS_WIDE), tl.arange(0, WIDE)
    low, high, _ = _span(n, split, window, TILE, SPLITS, HAS_WINDOW)
    is_used = (low < high) & (split < SPLITS)
    place = (seq * N_HEADS + head) * SPLITS + split
    tops_here = tl.load(tops + place, mask=is_used, other=NOTHING)
    top = tl.max(tops_here, 0)
    if HAS_SINKS:
        sink = tl.load(sinks + head) * LOG2E
        top = tl.maximum(top, sink)
    weight = tl.where(is_used, tl.exp2(tops_here - top), 0.0)
    total = tl.sum(tl.load(totals + place, mask=is_used, other=0.0) * weight, 0)
    if HAS_SINKS:
        total += tl.exp2(sink - top)
    parts = tl.load(
        sums + place[:, None].to(tl.int64) * DIM + d[None, :],
        mask=is_used[:, None] & (d < DIM)[None, :],
        other=0.0,
    )
    share = tl.sum(parts * weight[:, None], 0) / tl.where(total > 0.0, total, 1.0)
    at = (seq * N_HEADS + head).to(tl.int64) * DIM + d
    tl.store(out + at, share.to(out.dtype.element_ty), mask=d < DIM)


def n_splits(n_seq: int, n_kv_heads: int, most_tokens: int, processors: int) -> int:
    """Into how many parts each context is cut; a power of two."""
    wanted = -(-PROGRAMS_PER_PROCESSOR * processors // (n_seq * n_kv_heads))
    if most_tokens >= LONG_TOKENS:
        wanted = max(wanted, 2)
    return min(next_power(wanted), next_power(max(1, most_tokens // SPLIT_TOKENS)), 128)


def tuning(wide: int, itemsize: int) -> dict[str, int]:
    """How a tile is worked on; two programs fit on a processor of any kind, or one on the smallest."""
    return {"TILE": TILE if wide * itemsize <= 256 else TILE // 2, "num_warps": 4, "num_stages": 3}


def attend_decode(
    q: Tensor, memory: LayerMemory, rows: StepRows, how: Attention, out: Tensor
) -> None:
    """See Kernels.attend; one row of each sequence."""
    shape, has = Shape.of(q, memory.keys), parts_of_attention(how, q)
    tables, lengths, sinks = rows.block_tables, rows.lengths, or_else(how.sinks, rows.lengths)
    n_seq, most_tokens = len(q), tables.shape[1] * shape.block
    splits = n_splits(n_seq, shape.n_kv_heads, most_tokens, n_processors(q.device))
    places = (n_seq, shape.n_heads, splits) if splits > 1 else (1,)
    sums = torch.empty((*places, shape.dim), dtype=torch.float32, device=q.device)
    tops, totals = torch.empty((2, *places), dtype=torch.float32, device=q.device).unbind(0)
    tuned = tuning(shape.wide, q.element_size())
    decode[n_seq, shape.n_kv_heads, splits](
        q, *memory, tables, lengths, sinks, out, sums, tops, totals,
        how.scale, how.softcap or 1.0, how.window or 0, q.stride(0), tables.stride(0),
        HEADS=shape.n_kv_heads, SHARED=shape.n_shared, DIM=shape.dim, WIDE=shape.wide,
        BLOCK=shape.block, SPLITS=splits, ROWS=max(16, next_power(shape.n_shared)), **has, **tuned,
    )  # fmt: skip
    if splits > 1:
        join[n_seq, shape.n_heads](
            sums, tops, totals, lengths, sinks, out, how.window or 0,
            N_HEADS=shape.n_heads, DIM=shape.dim, WIDE=shape.wide, TILE=tuned["TILE"], SPLITS=splits,
            SPLITS_WIDE=next_power(splits), HAS_WINDOW=has["HAS_WINDOW"], HAS_SINKS=has["HAS_SINKS"],
            num_warps=4,
        )  # fmt: skip
