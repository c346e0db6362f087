"""Graphs: decode steps of a few sizes, recorded once and replayed with one launch."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from hearth_backends.cuda.device import Accelerator

SIZES = (1, 2, 4, *range(8, 257, 8))
"""Sequences in a recorded step; a step between two of them is filled up with rows of nobody."""
USES_BEFORE_RECORDING = 2
"""Steps of a size that are launched one kernel at a time before it is recorded: many sizes never come back."""

Compute = Callable[[Tensor], Tensor]
"""From a step's integers on the device to what comes out of it; reads and writes only what stays in place."""


class Graph(Protocol):
    """One computation with fixed places for what goes in and what comes out."""

    def __call__(self, flat: Tensor) -> Tensor:
        """Compute with these integers; the result is overwritten by the next call."""


class NullGraph:
    """Records nothing and computes anew each time, through the same fixed places: what a graph does on the CPU."""

    def __init__(self, compute: Compute, example: Tensor) -> None:
        self._compute = compute
        self._input = example.clone()
        self._output = compute(self._input)

    def __call__(self, flat: Tensor) -> Tensor:
        """See Graph."""
        self._input.copy_(flat)
        self._output.copy_(self._compute(self._input))
        return self._output


class CudaGraph:
    """Recorded launches of CUDA, or of HIP."""

    def __init__(self, compute: Compute, example: Tensor, pool: Any) -> None:
        self._input = example.clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries make their workspaces, and kernels are compiled
            compute(self._input)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._output = compute(self._input)

    def __call__(self, flat: Tensor) -> Tensor:
        """See Graph."""
        self._input.copy_(flat, non_blocking=True)
        self._graph.replay()
        return self._output


class Graphs:
    """The recorded sizes of one stage."""

    def __init__(self, device: Accelerator, most: int) -> None:
        """`most`: sequences in a step at most."""
        self._device = device
        largest = min(most, SIZES[-1])
        self.sizes = (*(size for size in SIZES if size < largest), largest)
        self._made: dict[tuple[int, str], Graph] = {}
        self._uses: Counter[tuple[int, str]] = Counter()
        self._pool: Any = None  # memory that the recorded steps share

    def size_for(self, n: int) -> int | None:
        """The smallest recorded size that holds n sequences; None where none does."""
        at = bisect_left(self.sizes, n)
        return self.sizes[at] if at < len(self.sizes) else None

    def get(
        self, size: int, kind: str, compute: Compute, example: Tensor, kept: Tensor
    ) -> Graph | None:
        """The graph of a size and kind; None until it has come up often enough to be worth recording.

        Recording computes; `kept` is what that changes and a second time would find changed: it is put back.
        """
        graph = self._made.get((size, kind))
        if graph is None:
            self._uses[size, kind] += 1
            if self._uses[size, kind] <= USES_BEFORE_RECORDING:
                return None
            before = kept.clone()
            graph = self._made[size, kind] = self._record(compute, example)
            kept.copy_(before)
        return graph

    def unrecorded(self) -> tuple[int, str] | None:
        """A size and kind that has come up and is not recorded yet; None where there is none."""
        return next((key for key in self._uses if key not in self._made), None)

    def _record(self, compute: Compute, example: Tensor) -> Graph:
        if not self._device.has_graphs:
            return NullGraph(compute, example)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return CudaGraph(compute, example, self._pool)

    def close(self) -> None:
        """Forget all; what they wrote to may be freed."""
        self._made.clear()
