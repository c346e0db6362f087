"""An engine on a machine whose paged backend sees two equal processors: hearthd.engine's argv, for tests of groups."""

from __future__ import annotations

import sys
from dataclasses import replace

from hearth_backends.base import DeviceInfo
from hearth_backends.cuda.backend import CudaBackend
from hearthd.engine.__main__ import main

_here = CudaBackend.devices


def two(backend: CudaBackend) -> list[DeviceInfo]:
    """The processor, twice; torch computes on the same one under both names."""
    (device,) = _here(backend)
    return [device, replace(device, name="cpu:1")]


if __name__ == "__main__":  # not in the process of the group's other device, which imports this
    CudaBackend.devices = two  # type: ignore[assignment,method-assign]
    sys.exit(main())
