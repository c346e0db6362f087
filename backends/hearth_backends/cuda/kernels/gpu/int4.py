"""Products by 4-bit integers: few rows straight from the codes, many rows by way of a floating point matrix.

A code that stands in the lowest bits of a float's fraction makes the float 128 + code (bfloat16) or
1024 + code (float16): a mask and a subtraction turn codes into exact numbers, and scales are applied to
sums of a group, in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hearth_backends.cuda.kernels.gpu.launch import n_processors, or_else, precision_of
from hearth_backends.cuda.kernels.gpu.parts import joined, parts_of
from hearth_backends.cuda.kernels.packing import BLOCK_INPUTS, SYMMETRIC_ZERO, Int4

FEW_ROWS = 64
"""Beyond them the product is bound by multiplying, and cuBLAS does it."""
OUTS = 64


@triton.jit
def _numbers(codes, zero, KIND: tl.constexpr):
    """Codes [16, outs] minus their zeros [outs], in the type of activations."""
    if tl.bfloat16 == KIND:
        number = (codes | 0x4300).to(tl.int16).to(tl.bfloat16, bitcast=True)
        number -= (zero + 128.0).to(tl.bfloat16)[None, :]
    elif tl.float16 == KIND:
        number = (codes | 0x6400).to(tl.int16).to(tl.float16, bitcast=True)
        number -= (zero + 1024.0).to(tl.float16)[None, :]
    else:
        number = codes.to(tl.float32) - zero[None, :]
    return number


@triton.jit(do_not_specialize=["n_rows", "n_blocks", "per_split"])
def int4_few(
    x, words, scales, zeros, out, n_rows, n_out, n_in, x_stride, n_blocks, per_split,
    ROWS: tl.constexpr, OUTS: tl.constexpr, GROUPS: tl.constexpr, HAS_ZEROS: tl.constexpr,
    ZERO: tl.constexpr, IS_WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (n_out / OUTS, splits, rows / ROWS); GROUPS in a block; IS_WHOLE: n_in has whole blocks, n_out whole OUTS."""
    o = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    m = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, 16)
    split = tl.program_id(1)
    first = split * per_split
    is_out = o < n_out
    acc = tl.zeros([ROWS, OUTS], tl.float32)
    for block in range(first, tl.minimum(first + per_split, n_blocks)):
        at = words + (o.to(tl.int64) + block * n_out)[None, :] * 16 + j[:, None]
        if IS_WHOLE:
            w = tl.load(at)
        else:
            w = tl.load(at, mask=is_out[None, :], other=0)
        for g in tl.static_range(GROUPS):
            place = (block * GROUPS + g) * n_out + o
            scale = tl.load(scales + place, mask=is_out, other=0.0).to(tl.float32)
            zero = tl.full([OUTS], ZERO, tl.float32)
            if HAS_ZEROS:
                zero = tl.load(zeros + place, mask=is_out, other=0.0).to(tl.float32)
            part = tl.zeros([ROWS, OUTS], tl.float32)
            for i in tl.static_range(8 // GROUPS):
                nibble = g * (8 // GROUPS) + i
                k = block * 128 + nibble * 16 + j
                mask = (m < n_rows)[:, None]
                if not IS_WHOLE:
                    mask = mask & (k < n_in)[None, :]
                xs = tl.load(
                    x + m[:, None].to(tl.int64) * x_stride + k[None, :], mask=mask, other=0.0
                )
                numbers = _numbers((w >> (4 * nibble)) & 15, zero, x.dtype.element_ty)
                part = tl.dot(xs, numbers, part, input_precision=PRECISION)
            acc += part * scale[None, :]
    at_out = (split.to(tl.int64) * n_rows + m)[:, None] * n_out + o[None, :]
    mask_out = (m < n_rows)[:, None] & is_out[None, :]
    tl.store(out + at_out, acc.to(out.dtype.element_ty), mask=mask_out)


@triton.jit
def int4_widen(
    words, scales, zeros, out, n_out, n_in,
    OUTS: tl.constexpr, GROUPS: tl.constexpr, HAS_ZEROS: tl.constexpr, ZERO: tl.constexpr,
):  # fmt: skip
    """Grid (blocks, n_out / OUTS): the matrix in floating point [n_out, n_in]."""
    block = tl.program_id(0)
    o = tl.program_id(1) * OUTS + tl.arange(0, OUTS)
    j = tl.arange(0, 16)
    is_out = o < n_out
    at = words + (block.to(tl.int64) * n_out + o)[:, None] * 16 + j[None, :]
    w = tl.load(at, mask=is_out[:, None], other=0)
    for nibble in tl.static_range(8):
        place = (block * GROUPS + nibble * GROUPS // 8) * n_out + o
        scale = tl.load(scales + place, mask=is_out, other=0.0).to(tl.float32)
        zero = tl.full([OUTS], ZERO, tl.float32)
        if HAS_ZEROS:
            zero = tl.load(zeros + place, mask=is_out, other=0.0).to(tl.float32)
        k = block * 128 + nibble * 16 + j
        numbers = (((w >> (4 * nibble)) & 15).to(tl.float32) - zero[:, None]) * scale[:, None]
        mask = is_out[:, None] & (k < n_in)[None, :]
        at_out = o[:, None].to(tl.int64) * n_in + k[None, :]
        tl.store(out + at_out, numbers.to(out.dtype.element_ty), mask=mask)


def int4_linear(x: Tensor, matrix: Int4) -> Tensor:
    """See Kernels."""
    groups = BLOCK_INPUTS // matrix.group
    has = {"GROUPS": groups, "HAS_ZEROS": matrix.zeros is not None, "ZERO": float(SYMMETRIC_ZERO)}
    zeros = or_else(matrix.zeros, matrix.scales)
    n, n_out, n_blocks = len(x), matrix.n_out, len(matrix.words)
    if n > FEW_ROWS:
        weight = torch.empty((n_out, matrix.n_in), dtype=x.dtype, device=x.device)
        int4_widen[n_blocks, triton.cdiv(n_out, OUTS)](
            matrix.words, matrix.scales, zeros, weight, n_out, matrix.n_in, OUTS=OUTS, **has
        )
        return torch.nn.functional.linear(x, weight)
    rows = 16 if n <= 16 else 32
    parts = parts_of(triton.cdiv(n_out, OUTS), n_blocks, n_processors(x.device))
    out = parts.room(n, n_out, x)
    int4_few[triton.cdiv(n_out, OUTS), parts.n, triton.cdiv(n, rows)](
        x, matrix.words, matrix.scales, zeros, out, n, n_out, matrix.n_in, x.stride(0),
        n_blocks, parts.size, ROWS=rows, OUTS=OUTS,
        IS_WHOLE=n_out % OUTS == 0 and matrix.n_in % BLOCK_INPUTS == 0,
        PRECISION=precision_of(x), **has, num_warps=4, num_stages=4,
    )  # fmt: skip
    return joined(out, x.dtype)
