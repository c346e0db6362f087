"""Which kernels a device has."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from hearth_backends.cuda.kernels.contract import Kernels

_WITH_TRITON = ("cuda", "xpu")  # torch calls AMD's GPUs cuda, too


def kernels_for(device: torch.device) -> Kernels:
    """The fastest kernels that run on a device; of GPUs they need Triton, which torch's builds for them bring."""
    if device.type in _WITH_TRITON and find_spec("triton") is not None:
        from hearth_backends.cuda.kernels.gpu.kernels import TritonKernels

        return TritonKernels()
    from hearth_backends.cuda.kernels.reference import ReferenceKernels

    return ReferenceKernels()
