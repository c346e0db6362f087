"""RMSNorm, alone or of a residual that grows first; each row is one program's."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hearth_backends.cuda.kernels.gpu.launch import next_power


@triton.jit
def norm(
    x, residual, weight, out, eps, x_stride,
    DIM: tl.constexpr, WIDE: tl.constexpr, ADDS: tl.constexpr,
):  # fmt: skip
    """Grid (rows,); ADDS: x goes into the residual first."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDE)
    mask = d < DIM
    h = tl.load(x + row * x_stride + d, mask=mask, other=0.0)
    if ADDS:
        h += tl.load(residual + row * DIM + d, mask=mask, other=0.0)
        tl.store(residual + row * DIM + d, h, mask=mask)
    h = h.to(tl.float32)
    shrink = tl.rsqrt(tl.sum(h * h, 0) / DIM + eps)
    factor = tl.load(weight + d, mask=mask, other=0.0)
    tl.store(out + row * DIM + d, (h * shrink * factor).to(out.dtype.element_ty), mask=mask)


def _launch(x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, adds: bool) -> Tensor:
    dim = x.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = x.reshape(-1, dim)
    wide = next_power(dim)
    norm[(len(rows),)](
        rows, residual, weight, out, eps, rows.stride(0),
        DIM=dim, WIDE=wide, ADDS=adds, num_warps=min(16, max(1, wide // 512)),
    )  # fmt: skip
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See Kernels."""
    return _launch(x, x, weight, eps, adds=False)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See Kernels."""
    return _launch(x, residual, weight, eps, adds=True)
