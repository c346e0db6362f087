"""Sums over inputs that are cut into parts, so that few outputs keep a whole device busy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS_PER_PROCESSOR = 3
MOST_PARTS = 16
WIDE = 1024


@dataclass(frozen=True, slots=True)
class Parts:
    """Of a sum: how many, and steps in each."""

    n: int
    size: int

    def room(self, n_rows: int, n_out: int, like: Tensor) -> Tensor:
        """Where each part's sum goes [n, n_rows, n_out]: in float32, where there is more than one."""
        dtype = like.dtype if self.n == 1 else torch.float32
        return torch.empty((self.n, n_rows, n_out), dtype=dtype, device=like.device)


def parts_of(n_programs: int, n_steps: int, processors: int) -> Parts:
    """Parts that make enough programs of n_programs; each has two steps or more, none has nothing."""
    wanted = -(-PROGRAMS_PER_PROCESSOR * processors // n_programs)
    n = max(1, min(wanted, MOST_PARTS, n_steps // 2))
    size = -(-n_steps // n)
    return Parts(-(-n_steps // size), size)


@triton.jit(do_not_specialize=["n"])
def join_parts(parts, out, n, size, WIDE: tl.constexpr):
    """Grid (size / WIDE,)."""
    at = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    total = tl.zeros([WIDE], tl.float32)
    for i in range(n):
        total += tl.load(parts + i * size + at, mask=at < size, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=at < size)


def joined(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of parts [n, rows, outs], always in the same order."""
    if len(parts) == 1:
        return parts[0]
    out = torch.empty(parts.shape[1:], dtype=dtype, device=parts.device)
    size = out.numel()
    join_parts[(triton.cdiv(size, WIDE),)](parts, out, len(parts), size, WIDE=WIDE, num_warps=4)
    return out
