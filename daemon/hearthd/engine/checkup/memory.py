"""The host's memory: whether it keeps what is written, and how fast it is copied."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
from numpy.typing import NDArray

PATTERN_BYTES = 128 << 20
LEAST_SPARE = 8
"""A test takes no more than this part of what is free."""
COPY_BYTES = 64 << 20
COPY_SECONDS = 0.3
_PATTERNS = (0x5555555555555555, 0xAAAAAAAAAAAAAAAA, 0x00000000FFFFFFFF)
_ODD = 0x9E3779B97F4A7C15


def find_bad_words(n_bytes: int = PATTERN_BYTES) -> tuple[int, int]:
    """Words that did not keep a pattern, and bytes tried: alternating bits, then each word's own."""
    n_bytes = min(n_bytes, psutil.virtual_memory().available // LEAST_SPARE)
    memory = np.empty(n_bytes // 8, np.uint64)
    bad = 0
    for pattern in _PATTERNS:
        memory.fill(pattern)
        bad += int(np.count_nonzero(memory != np.uint64(pattern)))
    own = np.arange(memory.size, dtype=np.uint64)
    own *= np.uint64(_ODD)
    memory[:] = own
    bad += int(np.count_nonzero(memory != own))
    return bad, memory.nbytes


def copy_bandwidth(threads: int) -> float:
    """Bytes a second that are read and written by `threads` threads together."""
    n = COPY_BYTES // 8 // max(1, threads)
    pairs = [(np.ones(n, np.float64), np.empty(n, np.float64)) for _ in range(max(1, threads))]
    with ThreadPoolExecutor(len(pairs)) as pool:
        _copy_all(pool, pairs)
        began, n_rounds = time.perf_counter(), 0
        while (spent := time.perf_counter() - began) < COPY_SECONDS:
            _copy_all(pool, pairs)
            n_rounds += 1
    return 2 * 8 * n * len(pairs) * n_rounds / spent


def _copy_all(
    pool: ThreadPoolExecutor,
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> None:
    list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
