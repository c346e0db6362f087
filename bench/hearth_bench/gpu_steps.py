"""Steps of the paged engine's stage, timed as the engine launches them: submit, and poll until it is there."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from hearth_backends.base import Batch, Handle, SamplingBatch, SamplingParams
from hearth_backends.cuda.stage import CudaStage
from hearth_backends.kv.contract import BLOCK_TOKENS, Placement

GREEDY = SamplingParams(temperature=0.0)


class Steps:
    """Batches for one stage: n sequences that already hold a context, whatever is in it."""

    def __init__(self, stage: CudaStage, n_seq: int, n_tokens: int, n_more: int) -> None:
        """`n_more`: tokens that each sequence may grow by."""
        self._stage = stage
        per_seq = -(-(n_tokens + n_more) // BLOCK_TOKENS)
        order = np.random.default_rng(0).permutation(n_seq * per_seq) + 1  # 0 is the null block
        blocks = order.reshape(n_seq, per_seq).tolist()
        self._placements = tuple(Placement(i, tuple(blocks[i])) for i in range(n_seq))
        self._position = n_tokens

    def decode(self, params: SamplingParams = GREEDY) -> Batch:
        """One row of each sequence, and the next position from now on."""
        n = len(self._placements)
        position, self._position = self._position, self._position + 1
        known = all(at == position for at in self._stage._runner.rows.sampled_at[:n])
        return Batch(
            tokens=np.full(n, -1 if known else 7, np.int32),
            seq=np.arange(n, dtype=np.int32),
            pos=np.full(n, position, np.int32),
            want=np.ones(n, np.bool_),
            ops=(),
            placements=self._placements,
            sampling=sampling(n, params, position),
        )

    def prefill(self, first: int, last: int) -> Batch:
        """Tokens [first, last) of the first sequence; its last row is sampled."""
        n = last - first
        return Batch(
            tokens=np.full(n, 7, np.int32),
            seq=np.zeros(n, np.int32),
            pos=np.arange(first, last, dtype=np.int32),
            want=np.arange(n) == n - 1,
            ops=(),
            placements=self._placements[:1],
            sampling=sampling(1, GREEDY, 0),
        )


def sampling(n: int, params: SamplingParams, position: int) -> SamplingBatch:
    """All rows alike."""
    return SamplingBatch(
        (params,) * n, np.full(n, position, np.int64), np.full(n, -1, np.int32), (None,) * n, (0,) * n,
        ((),) * n,
    )  # fmt: skip


def finish(stage: CudaStage, handle: Handle) -> object:
    """Polls as the engine does, without waiting in a driver."""
    while (result := stage.poll(handle)) is None:
        pass
    return result


def decode_seconds(
    stage: CudaStage,
    steps: Steps,
    n: int,
    *,
    overlap: bool = True,
    params: SamplingParams = GREEDY,
) -> float:
    """Of one decode step, the median over n; with `overlap` the next is submitted before its tokens are asked for."""
    for _ in range(4):  # kernels are compiled, graphs recorded
        finish(stage, stage.submit(steps.decode(params), None))
    return statistics.median(_gaps(stage, steps, n, overlap, params))


def _gaps(
    stage: CudaStage, steps: Steps, n: int, overlap: bool, params: SamplingParams
) -> Iterator[float]:
    running: deque[Handle] = deque()
    last = time.perf_counter()
    for _ in range(n + 1):
        running.append(stage.submit(steps.decode(params), None))
        if overlap and len(running) < 2:
            continue
        finish(stage, running.popleft())
        now = time.perf_counter()
        yield now - last
        last = now
    while running:
        finish(stage, running.popleft())


def prefill_seconds(
    stage: CudaStage, steps: Steps, first: int, last: int, *, rounds: int = 5
) -> float:
    """From submitting a prompt's tokens [first, last) to its token; the median."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        finish(stage, stage.submit(steps.prefill(first, last), None))
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])
