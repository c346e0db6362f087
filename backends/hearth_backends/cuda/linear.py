"""Linear: a matrix as it is kept on the device, and the product by it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Kernels
from hearth_backends.cuda.kernels.packing import Int4
from hearth_backends.quantizing.rounding import LARGEST_E4M3

FEW_ROWS = 16
"""Rows up to which a product is bound by reading weights: activations are left as they are."""


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
        return _n_bytes(self._weight, self._bias)


class Int4Linear:
    """4-bit integers in groups of inputs; activations as they are."""

    def __init__(self, matrix: Int4, bias: Tensor | None, kernels: Kernels) -> None:
        self._matrix = matrix
        self._bias = bias
        self._kernels = kernels

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        y = self._kernels.int4_linear(x, self._matrix)
        return y if self._bias is None else y + self._bias

    @property
    def n_bytes(self) -> int:
        return self._matrix.n_bytes + _n_bytes(self._bias)


class EightBitLinear:
    """8-bit integers or floats with a scale for each output.

    Many rows are rounded to 8 bits, too, each by its own scale, where the device multiplies such; few rows
    stay as they are.
    """

    def __init__(
        self, weight: Tensor, scales: Tensor, bias: Tensor | None, kernels: Kernels, *, rounds: bool
    ) -> None:
        """`weight` [n_out, n_in] int8 or float8_e4m3fn, `scales` [n_out] float32; `rounds`: whether the device can."""
        self._weight = weight
        self._scales = scales
        self._bias = bias
        self._kernels = kernels
        self._is_integer = weight.dtype == torch.int8
        step = 8 if self._is_integer else 16  # of sizes that the library's products take
        self._rounds = rounds and all(size % step == 0 for size in weight.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """See Linear."""
        if self._rounds and len(x) > FEW_ROWS:
            y = self._rounded(x)
        else:
            y = self._kernels.eight_bit_linear(x, self._weight, self._scales)
        return y if self._bias is None else y + self._bias

    def _rounded(self, x: Tensor) -> Tensor:
        most = 127 if self._is_integer else LARGEST_E4M3
        scale = x.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / most
        if self._is_integer:
            sums = torch._int_mm(torch.round(x / scale).to(torch.int8), self._weight.t())
            return (sums.float() * scale * self._scales).to(x.dtype)
        return torch._scaled_mm(
            (x / scale).to(torch.float8_e4m3fn), self._weight.t(), scale, self._scales[None],
            out_dtype=x.dtype,
        )  # fmt: skip

    @property
    def n_bytes(self) -> int:
        return _n_bytes(self._weight, self._scales, self._bias)


def _n_bytes(*tensors: Tensor | None) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
