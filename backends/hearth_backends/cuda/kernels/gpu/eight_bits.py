"""Products of few rows by 8-bit floats or integers; activations stay as they are."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hearth_backends.cuda.device import nvidia_capability, reads_fp8
from hearth_backends.cuda.kernels.gpu.launch import n_processors, precision_of
from hearth_backends.cuda.kernels.gpu.parts import joined, parts_of

FEW_ROWS = 64
OUTS = 32
INPUTS = 128


@triton.jit(do_not_specialize=["n_rows", "n_steps", "per_split"])
def eight_bits_few(
    x, weight, scales, out, n_rows, n_out, n_in, x_stride, n_steps, per_split,
    ROWS: tl.constexpr, OUTS: tl.constexpr, INPUTS: tl.constexpr, IS_WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (n_out / OUTS, splits, rows / ROWS); IS_WHOLE: n_in has whole INPUTS, n_out whole OUTS."""
    o = tl.program_id(0) * OUTS + tl.arange(0, OUTS)
    m = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1)
    first = split * per_split
    is_out = o < n_out
    acc = tl.zeros([ROWS, OUTS], tl.float32)
    for step in range(first, tl.minimum(first + per_split, n_steps)):
        k = step * INPUTS + tl.arange(0, INPUTS)
        at = weight + o[None, :].to(tl.int64) * n_in + k[:, None]
        mask = (m < n_rows)[:, None]
        if IS_WHOLE:
            w = tl.load(at)
        else:
            w = tl.load(at, mask=is_out[None, :] & (k < n_in)[:, None], other=0.0)
            mask = mask & (k < n_in)[None, :]
        xs = tl.load(x + m[:, None].to(tl.int64) * x_stride + k[None, :], mask=mask, other=0.0)
        acc = tl.dot(xs, w.to(x.dtype.element_ty), acc, input_precision=PRECISION)
    acc *= tl.load(scales + o, mask=is_out, other=0.0)[None, :]
    at_out = (split.to(tl.int64) * n_rows + m)[:, None] * n_out + o[None, :]
    mask_out = (m < n_rows)[:, None] & is_out[None, :]
    tl.store(out + at_out, acc.to(out.dtype.element_ty), mask=mask_out)


def eight_bit_linear(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """See Kernels."""
    n, n_out, n_in = len(x), *weight.shape
    is_readable = weight.dtype == torch.int8 or reads_fp8(nvidia_capability(x.device))
    if n > FEW_ROWS or not is_readable:
        y = torch.nn.functional.linear(x, weight.to(x.dtype))
        return (y.float() * scales).to(x.dtype)
    rows = 16 if n <= 16 else 32
    n_steps = triton.cdiv(n_in, INPUTS)
    parts = parts_of(triton.cdiv(n_out, OUTS), n_steps, n_processors(x.device))
    out = parts.room(n, n_out, x)
    eight_bits_few[triton.cdiv(n_out, OUTS), parts.n, triton.cdiv(n, rows)](
        x, weight, scales, out, n, n_out, n_in, x.stride(0), n_steps, parts.size,
        ROWS=rows, OUTS=OUTS, INPUTS=INPUTS,
        IS_WHOLE=n_out % OUTS == 0 and n_in % INPUTS == 0,
        PRECISION=precision_of(x), num_warps=4, num_stages=4,
    )  # fmt: skip
    return joined(out, x.dtype)
