"""Rounding: float32 matrices to the integers and 8-bit floats of a checkpoint; pure.

Matrices are [n_out, n_in]. Scales are rounded to float16, as they are stored, before numbers are
divided by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearth_backends.weights.reader import packed_pairs

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]

MIDDLE = 8
"""The zero point of symmetric 4-bit integers."""
LARGEST_E4M3 = 448.0
_SHRINKS = np.linspace(1.0, 0.6, 11, dtype=np.float32)
"""Of a group's range, the shares that are tried: a few large numbers may be cut off for finer steps."""
_LEAST_HALF = 2.0**-24
LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class Grouped:
    """A number is (integer - zero point) * scale."""

    integers: U8  # [n_out, n_in], 0 to 15
    scales: F32  # [n_out, n_groups]; numbers that float16 has
    zeros: U8 | None  # [n_out, n_groups]; None: MIDDLE throughout


def int4_groups(rows: F32, group: int, *, symmetric: bool) -> Grouped:
    """Of several ranges for each group of inputs, the one with the least squared error.

    A symmetric group's scale is negative where its largest number is positive: then that becomes -8,
    and the eighth step is not lost. `group` divides n_in.
    """
    n_out, n_in = rows.shape
    blocks = rows.reshape(n_out, n_in // group, group)
    tries = _symmetric_tries(blocks) if symmetric else _asymmetric_tries(blocks)
    error = np.full((*blocks.shape[:2], 1), np.inf, np.float32)
    best = np.zeros(blocks.shape, np.float32)
    best_scale, best_zero = np.zeros_like(error), np.full_like(error, MIDDLE)
    for scale, zero in tries:
        integers, missed = _rounded(blocks, scale, zero)
        better = missed < error
        for kept, found in (
            (error, missed),
            (best, integers),
            (best_scale, scale),
            (best_zero, zero),
        ):
            np.copyto(kept, found, where=better)
    return Grouped(
        best.astype(np.uint8).reshape(n_out, n_in),
        best_scale[:, :, 0],
        None if symmetric else best_zero[:, :, 0].astype(np.uint8),
    )


def _symmetric_tries(blocks: F32) -> list[tuple[F32, F32]]:
    at = np.abs(blocks).argmax(axis=2)[:, :, None]
    peak = np.take_along_axis(blocks, at, axis=2)
    middle = np.full(peak.shape, MIDDLE, np.float32)
    return [(_half(peak * (shrink / -MIDDLE)), middle) for shrink in (*_SHRINKS, MIDDLE / 7)]


def _asymmetric_tries(blocks: F32) -> list[tuple[F32, F32]]:
    low = np.minimum(blocks.min(axis=2, keepdims=True), 0)
    high = np.maximum(blocks.max(axis=2, keepdims=True), 0)
    tries = []
    for shrink in _SHRINKS:
        scale = _half((high - low) * (shrink / 15))
        zero = np.rint(np.divide(-low * shrink, scale, out=np.zeros_like(low), where=scale != 0))
        tries.append((scale, np.clip(zero, 0, 15)))
    return tries


def _rounded(blocks: F32, scale: F32, zero: F32) -> tuple[F32, F32]:
    """Integers, and squared errors [n_out, n_groups, 1]."""
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    integers = np.rint(blocks * inverse)
    integers += zero
    np.clip(integers, 0, 15, out=integers)
    missed = (integers - zero) * scale
    missed -= blocks
    return integers, np.einsum("rgi,rgi->rg", missed, missed)[:, :, None]


def int8_channels(rows: F32) -> tuple[I8, F32]:
    """Integers from -127 to 127 and scales [n_out, 1]."""
    scales = _half(np.abs(rows).max(axis=1, keepdims=True) / np.float32(127), upwards=True)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    return np.clip(np.rint(rows * inverse), -127, 127).astype(np.int8), scales


def fp8_channels(rows: F32) -> tuple[U8, F32]:
    """Codes of E4M3 (no infinities; nothing becomes its not-a-number) and scales [n_out, 1]."""
    peak = np.abs(rows).max(axis=1, keepdims=True)
    scales = _half(peak / np.float32(LARGEST_E4M3), upwards=True)
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    return e4m3_codes(rows * inverse), scales


def e4m3_codes(values: F32) -> U8:
    """The nearest 8-bit float of each number, the even one of two; what is too large becomes the largest."""
    codes = np.searchsorted(_bounds(), np.abs(values)).astype(np.uint8)
    return codes | np.where(np.signbit(values), np.uint8(128), np.uint8(0))


@cache
def _bounds() -> F32:
    """Between neighbouring codes 0 to 126, the largest number that goes down."""
    codes = np.arange(127)
    exponent, fraction = codes >> 3, (codes & 7) / 8
    sizes = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7.0))
    bounds = ((sizes[1:] + sizes[:-1]) / 2).astype(np.float32)
    bounds[1::2] = np.nextafter(bounds[1::2], np.float32(0))  # ties above odd codes go up
    return bounds


def _half(scales: F32, *, upwards: bool = False) -> F32:
    """As float16 stores them; `upwards`: never a smaller one, so that nothing is cut off."""
    size = np.clip(np.abs(scales), 0, LARGEST_HALF)
    halves = size.astype(np.float16)
    if upwards:
        short = halves.astype(np.float32) < size
        halves = np.where(short, np.nextafter(halves, np.float16(np.inf)), halves)
    found = halves.astype(np.float32)
    found[(found == 0) & (size != 0)] = _LEAST_HALF
    return np.copysign(found, scales)


def words(integers: U8) -> NDArray[Any]:
    """[n, m] integers of 4 bits as [n, ceil(m / 8)] int32, each word's first in its lowest bits."""
    missing = -integers.shape[1] % 8
    if missing:
        integers = np.pad(integers, ((0, 0), (0, missing)))
    return np.ascontiguousarray(packed_pairs(integers)).view("<i4")
