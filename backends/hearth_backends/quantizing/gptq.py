"""GPTQ: 4-bit groups whose rounding errors make up for each other on the inputs that a matrix really gets; pure.

(Frantar et al., 2022.) Columns are rounded one after the other; what a column missed is taken from those
that are still to come, in the proportions that change the product with the observed inputs least.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hearth_backends.quantizing.rounding import F32, MIDDLE, Grouped, int4_groups

Upper: TypeAlias = NDArray[Any]

DAMPING = 0.02
"""Of the mean square of all inputs, what is added to each: inputs that the text hardly had count for something."""
_EXACT_INPUTS = 2048
"""Matrices of more inputs are solved in single precision, which takes half the memory and the time."""
_SMALL = 64


def factor(inputs: F32) -> Upper:
    """The upper triangle U with U^T U the inverse of the inputs' covariance [n_in, n_in]; inputs [n, n_in]."""
    x: NDArray[Any] = inputs.astype(np.float64 if inputs.shape[1] <= _EXACT_INPUTS else np.float32)
    covariance: NDArray[Any] = x.T @ x
    diagonal = np.einsum("ii->i", covariance)
    damping = max(DAMPING * float(diagonal.mean()), 1e-6)
    while True:
        diagonal += damping
        try:
            # With rows and columns reversed, Cholesky's lower triangle is the upper one that is wanted.
            reverse = np.linalg.cholesky(covariance[::-1, ::-1])
            return _inverse(np.ascontiguousarray(reverse[::-1, ::-1]))
        except np.linalg.LinAlgError:
            damping *= 10  # a few directions carry so much that rounding drowns the others


def _inverse(upper: Upper) -> Upper:
    """Of an upper triangle, by halves."""
    n = len(upper)
    if n <= _SMALL:
        return np.triu(np.linalg.inv(upper))
    half = n // 2
    out = np.zeros_like(upper)
    out[:half, :half] = _inverse(upper[:half, :half])
    out[half:, half:] = _inverse(upper[half:, half:])
    out[:half, half:] = -out[:half, :half] @ (upper[:half, half:] @ out[half:, half:])
    return out


def gptq_groups(matrix: F32, group: int, upper: Upper, *, symmetric: bool) -> Grouped:
    """As `int4_groups`, which finds each group's scale when its columns are reached."""
    n_out, n_in = matrix.shape
    factors = upper.astype(np.float32)
    left = matrix.copy()
    integers = np.empty((n_out, n_in), np.uint8)
    scales = np.empty((n_out, n_in // group), np.float32)
    zeros = np.full(scales.shape, MIDDLE, np.uint8)
    for number, start in enumerate(range(0, n_in, group)):
        stop = start + group
        found = int4_groups(left[:, start:stop], group, symmetric=symmetric)
        scale = found.scales[:, 0]
        zero = np.full(n_out, MIDDLE, np.float32)
        if found.zeros is not None:
            zero = found.zeros[:, 0].astype(np.float32)
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
        missed = np.empty((n_out, group), np.float32)
        for i in range(start, stop):
            column = left[:, i]
            rounded = np.clip(np.rint(column * inverse) + zero, 0, 15)
            integers[:, i] = rounded
            missed[:, i - start] = (column - (rounded - zero) * scale) / factors[i, i]
            left[:, i + 1 : stop] -= np.outer(missed[:, i - start], factors[i, i + 1 : stop])
        left[:, stop:] -= missed @ factors[start:stop, stop:]
        scales[:, number], zeros[:, number] = scale, zero
    return Grouped(integers, scales, None if symmetric else zeros)
