"""Linear: a matrix as it is kept on the device, and the product by it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Linear(Protocol):
    """[n_out, n_in], with its bias where it has one."""

    def __call__(self, x: Tensor) -> Tensor:
        """x [n, n_in] times the matrix, plus the bias [n, n_out]."""

    @property
    def n_bytes(self) -> int: ...


class FloatLinear:
    """Floating point numbers of the stage's own type."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        return torch.nn.functional.linear(x, self._weight, self._bias)

    @property
    def n_bytes(self) -> int:
        return self._weight.nbytes + (0 if self._bias is None else self._bias.nbytes)
