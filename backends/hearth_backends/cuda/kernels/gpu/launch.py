"""What launches have in common: shapes as constants, how much a device does at once.

Triton compiles a kernel anew for each kind of argument it has not seen: constants, but also which numbers and
addresses are multiples of 16. What differs from step to step is therefore excluded from that
(`do_not_specialize`), and constants that follow from a step's size have few values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hearth_backends.cuda.device import nvidia_capability
from hearth_backends.cuda.kernels.contract import Attention

_PROCESSORS_OF_NOBODY = 2  # in the interpreter


@dataclass(frozen=True, slots=True)
class Shape:
    """Of attention over blocks."""

    n_heads: int
    n_kv_heads: int
    dim: int
    block: int  # tokens

    @classmethod
    def of(cls, q: Tensor, pool: Tensor) -> Shape:
        """From queries [n, Hq, D] and a pool [n_blocks, block, Hkv, D]."""
        return cls(q.shape[1], pool.shape[2], q.shape[2], pool.shape[1])

    @property
    def n_shared(self) -> int:
        """Heads of queries to one of keys."""
        return self.n_heads // self.n_kv_heads

    @property
    def wide(self) -> int:
        """The dimensions filled up to a power of two."""
        return max(16, next_power(self.dim))


def next_power(n: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << max(0, n - 1).bit_length()


def search_steps(n_seq: int) -> int:
    """Halvings that find one of n_seq sequences; one of two numbers for all that an engine has."""
    return 4 if n_seq < 16 else max(10, n_seq.bit_length())


def precision_of(x: Tensor) -> str:
    """How products of its type are made: float32 is not to become TF32."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def parts_of_attention(how: Attention, q: Tensor) -> dict[str, bool | str]:
    """The constants by which a kernel leaves out what an architecture does not have."""
    return {
        "HAS_WINDOW": how.window is not None,
        "HAS_SOFTCAP": how.softcap is not None,
        "HAS_SINKS": how.sinks is not None,
        "PRECISION": precision_of(q),
    }


def or_else(given: Tensor | None, other: Tensor) -> Tensor:
    """An argument that is not there: its kernel never reads the other."""
    return other if given is None else given


def n_processors(device: torch.device) -> int:
    """How many programs run at once, if one ran on each multiprocessor."""
    return _PROCESSORS_OF_NOBODY if device.type == "cpu" else _n_processors(device)


@cache
def _n_processors(device: torch.device) -> int:
    properties = torch.get_device_module(device.type).get_device_properties(device)
    if device.type == "xpu":
        return int(properties.gpu_subslice_count)
    return int(properties.multi_processor_count)


def has_warpgroups(device: torch.device) -> bool:
    """Whether products are made by four warps together, as on Hopper and the large Blackwells: with bigger tiles."""
    capability = nvidia_capability(device)
    return capability is not None and capability[0] in (9, 10)
