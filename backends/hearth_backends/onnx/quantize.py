"""Quantizers: float32 matrices to the integers that ONNX Runtime's kernels multiply; pure.

Matrices are [n_out, n_in] and come as chunks of rows, so that no large one is ever whole in float32.
Blocks run along n_in, which is filled up with zeros to whole blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearth_backends.weights.reader import Blocks, Channels, Groups, packed_pairs

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I8 = NDArray[np.int8]
Chunks = Iterable[F32]

_DIVISORS = (8.0, 7.4, 7.0)  # of a block's largest value: which integer it becomes


def int4_blocks(chunks: Chunks, block: int) -> tuple[U8, F32]:
    """Packed nibbles [n_out, n_blocks, block / 2], low first, zero at 8; scales [n_out, n_blocks].

    Like Q4_0 a block's largest value keeps its sign and becomes -8; two smaller scales are tried, and
    the one with the least squared error is taken.
    """
    return _joined(chunks, lambda rows: _int4_rows(_in_blocks(rows, block)))


def int8_blocks(chunks: Chunks, block: int) -> tuple[U8, F32]:
    """Integers [n_out, n_blocks, block] with zero at 128; scales [n_out, n_blocks]."""
    return _joined(chunks, lambda rows: _int8_rows(_in_blocks(rows, block)))


def int8_channels(chunks: Chunks) -> tuple[I8, F32]:
    """Integers [n_in, n_out] (transposed) with zero at 0; scales [n_out]."""
    integers, scales = _joined(chunks, _int8_channel_rows)
    return np.ascontiguousarray(integers.T), scales


def int4_from_q4_0(blocks: Blocks) -> tuple[U8, F32]:
    """Blocks of 32 of a GGUF file as `int4_blocks` gives them, to the bit.

    GGUF keeps element i in the low half of byte i and element i + 16 in its high half.
    """
    parts = blocks.data.reshape(blocks.data.shape[0], -1, 18)
    scales = _half_scales(parts)
    packed = parts[:, :, 2:]
    nibbles = np.concatenate([packed & 15, packed >> 4], axis=2)
    return packed_pairs(nibbles), scales


def int4_from_groups(groups: Groups, block: int) -> tuple[U8, F32, U8]:
    """Groups of a checkpoint as `int4_blocks` gives them, to the bit, and packed zero points.

    A group of several blocks gives its scale and zero point to each; `block` divides its size.
    """
    n_out, n_bytes = groups.packed.shape
    times = groups.size // block
    scales = np.repeat(groups.scales, times, axis=1)
    packed = groups.packed.reshape(n_out, 2 * n_bytes // block, block // 2)
    return packed, scales, packed_zeros(np.repeat(groups.all_zeros(), times, axis=1))


def int8_from_channels(channels: Channels, block: int) -> tuple[U8, F32]:
    """Integers of a checkpoint as `int8_blocks` gives them, to the bit: each block has its output's scale."""
    n_out, n_in = channels.integers.shape
    n_blocks = -(-n_in // block)
    integers = channels.integers.view(np.uint8) ^ np.uint8(128)
    if n_in != n_blocks * block:
        integers = np.pad(
            integers, ((0, 0), (0, n_blocks * block - n_in)), constant_values=np.uint8(128)
        )
    scales = np.repeat(channels.scales[:, None], n_blocks, axis=1)
    return integers.reshape(n_out, n_blocks, block), scales


def packed_zeros(zeros: U8) -> U8:
    """Zero points [n_out, n_blocks] two to a byte, rows filled up to whole bytes."""
    if zeros.shape[1] % 2:
        zeros = np.pad(zeros, ((0, 0), (0, 1)))
    return packed_pairs(zeros[:, None, :])[:, 0]


def int8_from_q8_0(blocks: Blocks) -> tuple[U8, F32]:
    """Blocks of 32 of a GGUF file as `int8_blocks` gives them, to the bit."""
    parts = blocks.data.reshape(blocks.data.shape[0], -1, 34)
    return parts[:, :, 2:] ^ np.uint8(128), _half_scales(parts)


def _half_scales(parts: U8) -> F32:
    return np.ascontiguousarray(parts[:, :, :2]).view("<f2")[:, :, 0].astype(np.float32)


def _joined(
    chunks: Chunks, quantize: Callable[[F32], tuple[NDArray[Any], F32]]
) -> tuple[NDArray[Any], F32]:
    done = [quantize(rows) for rows in chunks]
    if len(done) == 1:
        return done[0]
    return np.concatenate([d[0] for d in done]), np.concatenate([d[1] for d in done])


def _int8_channel_rows(rows: F32) -> tuple[I8, F32]:
    scales = np.abs(rows).max(axis=1) / np.float32(127)
    scales[scales == 0] = 1
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


def _in_blocks(rows: F32, block: int) -> F32:
    """[rows, n_blocks, block]"""
    n_in = rows.shape[1]
    n_blocks = -(-n_in // block)
    if n_in != n_blocks * block:
        rows = np.pad(rows, ((0, 0), (0, n_blocks * block - n_in)))
    return rows.reshape(rows.shape[0], n_blocks, block)


def _int4_rows(blocks: F32) -> tuple[U8, F32]:
    at = np.abs(blocks).argmax(axis=2)[:, :, None]
    peak = np.take_along_axis(blocks, at, axis=2)
    best, scale, error = _int4_try(blocks, peak, _DIVISORS[0])
    for divisor in _DIVISORS[1:]:
        other, other_scale, other_error = _int4_try(blocks, peak, divisor)
        better = other_error < error
        np.copyto(best, other, where=better)
        np.copyto(scale, other_scale, where=better)
        np.copyto(error, other_error, where=better)
    return packed_pairs(best.astype(np.uint8)), scale[:, :, 0]


def _int4_try(blocks: F32, peak: F32, divisor: float) -> tuple[F32, F32, F32]:
    """Integers [rows, n_blocks, block], scales and squared errors [rows, n_blocks, 1]."""
    scale = peak / np.float32(-divisor)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    integers = np.rint(blocks * inverse)
    np.clip(integers, -8, 7, out=integers)
    missed = integers * scale
    missed -= blocks
    error = np.einsum("rbi,rbi->rb", missed, missed)[:, :, None]
    integers += 8
    return integers, scale, error


def _int8_rows(blocks: F32) -> tuple[U8, F32]:
    scale = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    integers = np.rint(blocks * inverse)
    integers += 128
    return integers.astype(np.uint8), scale[:, :, 0]
