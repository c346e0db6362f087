"""SiLU or GELU of the gate, times the other half."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDE = 1024


@triton.jit
def activate(gate_up, out, width, stride, WIDE: tl.constexpr, IS_GELU: tl.constexpr):
    """Grid (rows, width / WIDE)."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    mask = at < width
    gate = tl.load(gate_up + row * stride + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + width + at, mask=mask, other=0.0).to(tl.float32)
    turn = gate
    if IS_GELU:  # 0.5 (1 + tanh u) is the logistic function of 2u, and tanh's form of GELU is that
        turn = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    gated = gate / (1.0 + tl.exp(-turn))
    tl.store(out + row * width + at, (gated * up).to(out.dtype.element_ty), mask=mask)


def gated(gate_up: Tensor, *, gelu: bool) -> Tensor:
    """See Kernels."""
    n, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((n, width), dtype=gate_up.dtype, device=gate_up.device)
    activate[n, triton.cdiv(width, WIDE)](
        gate_up, out, width, gate_up.stride(0), WIDE=WIDE, IS_GELU=gelu, num_warps=4
    )
    return out
