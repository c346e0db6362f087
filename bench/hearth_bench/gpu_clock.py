"""Time on a device, and what the device can do at most: the measures that figures are shares of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from hearth_backends.cuda.device import Accelerator

Work = Callable[[], object]


def seconds_of(work: Work, where: Accelerator, *, repeats: int = 20, rounds: int = 5) -> float:
    """Of one call, launched many times in a row: the median of some rounds."""
    work()
    work()
    where.synchronize()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        where.synchronize()
        found.append((time.perf_counter() - start) / repeats)
    return statistics.median(found)


def copy_bandwidth(where: Accelerator, n_bytes: int) -> float:
    """Bytes a second that a copy reads and writes together."""
    source = torch.empty(n_bytes // 4, dtype=torch.int32, device=where.torch)
    target = torch.empty_like(source)
    return 2 * n_bytes / seconds_of(lambda: target.copy_(source), where, repeats=5)


def read_bandwidth(where: Accelerator, n_bytes: int) -> float:
    """Bytes a second that a sum reads: what steps do, which write next to nothing."""
    source = torch.zeros(n_bytes // 4, dtype=torch.float32, device=where.torch)
    return n_bytes / seconds_of(source.sum, where, repeats=5)


def matmul_rate(where: Accelerator, dtype: torch.dtype, n: int) -> float:
    """Floating point operations a second of a large square product."""
    a = torch.randn(n, n, device=where.torch).to(dtype)
    b = torch.randn(n, n, device=where.torch).to(dtype)
    return 2 * n**3 / seconds_of(lambda: a @ b, where, repeats=5)
