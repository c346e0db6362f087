"""Paged decode with other tiles, warps and stages than its own: what to choose on a GPU that is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels.contract import Kernels
from hearth_bench.gpu_figures import Figure
from hearth_bench.gpu_kernels import attention_sweep
from hearth_bench.shapes import Shape

TILES, WARPS, STAGES = (32, 64, 128), (2, 4, 8), (2, 3, 4)


def decode_choices(
    kernels: Kernels,
    shape: Shape,
    where: Accelerator,
    sizes: list[tuple[int, int]],
    bandwidth: float,
) -> Iterator[Figure]:
    """Every combination that fits on the device, at each of some sizes."""
    import torch
    from triton.runtime.errors import OutOfResources

    for tile, warps, stages in product(TILES, WARPS, STAGES):
        with _tuned(TILE=tile, num_warps=warps, num_stages=stages):
            figures = attention_sweep(
                kernels, shape, torch.bfloat16, torch.bfloat16, where, sizes, bandwidth
            )
            try:
                for f in figures:
                    name = f"{f.name}, tile {tile}, {warps} warps, {stages} stages"
                    yield Figure(name, f.value, f.unit, detail=f.detail)
            except OutOfResources:  # too large for this device: not a choice
                continue


@contextmanager
def _tuned(**choice: int) -> Iterator[None]:
    """The kernel's launches are made so meanwhile."""
    from hearth_backends.cuda.kernels.gpu import decode

    own = decode.tuning
    decode.tuning = lambda wide, itemsize: dict(choice)
    try:
        yield
    finally:
        decode.tuning = own
