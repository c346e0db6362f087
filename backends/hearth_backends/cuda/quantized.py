"""From a matrix in a file to a Linear on the device, in the kind that it is to be kept in."""

from __future__ import annotations

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Kernels
from hearth_backends.cuda.linear import FloatLinear, Linear
from hearth_backends.cuda.transfer import as_tensor
from hearth_backends.errors import Unsupported
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.reader import TensorReader


def make_linear(
    kind: str,
    matrix: Matrix,
    reader: TensorReader,
    *,
    inputs: slice | None,
    bias: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
    kernels: Kernels,
) -> Linear:
    """The matrix, or only some of its inputs, as a Linear of a kind."""
    if kind in ("fp32", "fp16", "bf16"):
        return FloatLinear(_floats(matrix, reader, inputs, dtype, device), bias)
    raise Unsupported(f"weights of the kind {kind!r}")


def _floats(
    matrix: Matrix,
    reader: TensorReader,
    inputs: slice | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """[n_out, n_in] on the device; on the host there are some rows at a time."""
    columns = slice(None) if inputs is None else inputs
    n_in = len(range(*columns.indices(matrix.n_in)))
    weight = torch.empty((matrix.n_out, n_in), dtype=dtype, device=device)
    at = 0
    for rows in matrix.chunks(reader):
        weight[at : at + len(rows)] = as_tensor(rows)[:, columns].to(device)
        at += len(rows)
    return weight
