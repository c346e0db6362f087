"""Which kernels a device has."""

from __future__ import annotations

import torch

from hearth_backends.cuda.kernels.contract import Kernels


def kernels_for(device: torch.device) -> Kernels:
    """The fastest kernels that run on a device."""
    from hearth_backends.cuda.kernels.reference import ReferenceKernels

    return ReferenceKernels()
