"""Queries and keys normed and turned, keys and values written to their blocks: one pass over the joint product."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from hearth_backends.cuda.kernels.contract import LayerMemory, Rope, StepRows
from hearth_backends.cuda.kernels.gpu.launch import next_power, or_else
from hearth_backends.quantizing.rounding import LARGEST_E4M3


@triton.jit
def _narrow(x, LARGEST: tl.constexpr):
    """Within what an 8-bit float holds; any other type takes it as it is."""
    if LARGEST > 0:
        x = tl.minimum(tl.maximum(x, -LARGEST), LARGEST)
    return x


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def store(
    q, k, v, q_norm, k_norm, cos, sin, positions, slots, k_pool, v_pool,
    eps, q_stride, k_stride, v_stride,
    N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr,
    HALF: tl.constexpr, HALF_WIDE: tl.constexpr, REST_WIDE: tl.constexpr,
    HAS_Q_NORM: tl.constexpr, HAS_K_NORM: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Grid (rows, N_HEADS + 2 * N_KV_HEADS): each program has one head of queries, keys or values."""
    row, head = tl.program_id(0), tl.program_id(1)
    if head >= N_HEADS + N_KV_HEADS:
        d = tl.arange(0, WIDE)
        of_head = head - N_HEADS - N_KV_HEADS
        x = tl.load(v + row.to(tl.int64) * v_stride + of_head * DIM + d, mask=d < DIM, other=0.0)
        slot = tl.load(slots + row).to(tl.int64)
        at = v_pool + (slot * N_KV_HEADS + of_head) * DIM + d
        tl.store(at, _narrow(x.to(tl.float32), LARGEST).to(v_pool.dtype.element_ty), mask=d < DIM)
        return
    h = tl.arange(0, HALF_WIDE)
    in_half = h < HALF
    is_query = head < N_HEADS
    source = q + row.to(tl.int64) * q_stride + head * DIM
    if not is_query:
        source = k + row.to(tl.int64) * k_stride + (head - N_HEADS) * DIM
    a = tl.load(source + h, mask=in_half, other=0.0).to(tl.float32)
    b = tl.load(source + HALF + h, mask=in_half, other=0.0).to(tl.float32)
    squares = tl.sum(a * a, 0) + tl.sum(b * b, 0)
    if REST_WIDE > 0:
        r = 2 * HALF + tl.arange(0, REST_WIDE)
        rest = tl.load(source + r, mask=r < DIM, other=0.0).to(tl.float32)
        squares += tl.sum(rest * rest, 0)
    if HAS_Q_NORM or HAS_K_NORM:
        if (is_query and HAS_Q_NORM) or (head >= N_HEADS and HAS_K_NORM):
            weight = q_norm
            if not is_query:
                weight = k_norm
            shrink = tl.rsqrt(squares / DIM + eps)
            a *= shrink * tl.load(weight + h, mask=in_half, other=0.0)
            b *= shrink * tl.load(weight + HALF + h, mask=in_half, other=0.0)
            if REST_WIDE > 0:
                rest *= shrink * tl.load(weight + r, mask=r < DIM, other=0.0)
    angle = tl.load(positions + row).to(tl.int64) * HALF + h
    c = tl.load(cos + angle, mask=in_half, other=0.0)
    s = tl.load(sin + angle, mask=in_half, other=0.0)
    turned_a, turned_b = a * c - b * s, b * c + a * s
    if is_query:
        tl.store(source + h, turned_a.to(q.dtype.element_ty), mask=in_half)
        tl.store(source + HALF + h, turned_b.to(q.dtype.element_ty), mask=in_half)
        if REST_WIDE > 0:
            tl.store(source + r, rest.to(q.dtype.element_ty), mask=r < DIM)
    else:
        slot = tl.load(slots + row).to(tl.int64)
        at = k_pool + (slot * N_KV_HEADS + head - N_HEADS) * DIM
        kind = k_pool.dtype.element_ty
        tl.store(at + h, _narrow(turned_a, LARGEST).to(kind), mask=in_half)
        tl.store(at + HALF + h, _narrow(turned_b, LARGEST).to(kind), mask=in_half)
        if REST_WIDE > 0:
            tl.store(at + r, _narrow(rest, LARGEST).to(kind), mask=r < DIM)


def store_qkv(
    q: Tensor, k: Tensor, v: Tensor, q_norm: Tensor | None, k_norm: Tensor | None, eps: float,
    rope: Rope, rows: StepRows, memory: LayerMemory,
) -> None:  # fmt: skip
    """See Kernels."""
    n, n_heads, dim = q.shape
    n_kv_heads, half = k.shape[1], rope.cos.shape[1]
    rest = dim - 2 * half
    store[n, n_heads + 2 * n_kv_heads](
        q, k, v, or_else(q_norm, rope.cos), or_else(k_norm, rope.cos), *rope, rows.positions, rows.slots, *memory,
        eps, q.stride(0), k.stride(0), v.stride(0),
        N_HEADS=n_heads, N_KV_HEADS=n_kv_heads, DIM=dim, WIDE=next_power(dim),
        HALF=half, HALF_WIDE=next_power(half), REST_WIDE=next_power(rest) if rest else 0,
        HAS_Q_NORM=q_norm is not None, HAS_K_NORM=k_norm is not None,
        LARGEST=LARGEST_E4M3 if memory.keys.element_size() == 1 else 0.0, num_warps=1,
    )  # fmt: skip
