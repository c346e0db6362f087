"""Quantizers: blocks of GGUF files are taken over to the bit, and nothing is further off than half a step."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from hearth_backends.onnx import quantize
from hearth_backends.weights.reader import Blocks

F32 = NDArray[np.float32]
Q4_0, Q8_0 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0


def matrix(n_out: int = 33, n_in: int = 96) -> F32:
    values = np.random.default_rng(1).normal(size=(n_out, n_in)).astype(np.float32)
    values[3] = 0
    return values


def unpacked(packed: NDArray[np.uint8], scales: F32) -> F32:
    """What MatMulNBits multiplies by, of 4-bit blocks."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=3).reshape(*packed.shape[:2], -1)
    values: F32 = (nibbles.astype(np.float32) - 8) * scales[:, :, None]
    return values.reshape(len(values), -1)


def test_q4_0_is_taken_over() -> None:
    stored = gguf.quants.quantize(matrix(), Q4_0)
    found = unpacked(*quantize.int4_from_q4_0(Blocks(stored, "Q4_0")))
    assert np.array_equal(found, gguf.quants.dequantize(stored, Q4_0))


def test_q8_0_is_taken_over() -> None:
    stored = gguf.quants.quantize(matrix(), Q8_0)
    integers, scales = quantize.int8_from_q8_0(Blocks(stored, "Q8_0"))
    found = ((integers.astype(np.float32) - 128) * scales[:, :, None]).reshape(33, 96)
    assert np.array_equal(found, gguf.quants.dequantize(stored, Q8_0))


@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("n_rows", [33, 5])
def test_blocks_of_4_bits(block: int, n_rows: int) -> None:
    values = matrix(n_in=80)
    chunks = [values[at : at + n_rows] for at in range(0, 33, n_rows)]
    packed, scales = quantize.int4_blocks(chunks, block)
    n_blocks = -(-80 // block)
    assert packed.shape == (33, n_blocks, block // 2)
    found = unpacked(packed, scales)
    assert not found[:, 80:].any()
    found = found[:, :80]
    assert not found[3].any()
    steps = np.repeat(np.abs(scales), block, axis=1)[:, :80]
    assert (np.abs(found - values) <= steps * 1.01).all()
    plain = gguf.quants.dequantize(gguf.quants.quantize(matrix(n_in=96), Q4_0), Q4_0)
    if block == 32:
        better = unpacked(*quantize.int4_blocks([matrix(n_in=96)], 32))
        errors = [float(((m - matrix(n_in=96)) ** 2).mean()) for m in (better, plain)]
        assert errors[0] < errors[1]


def test_blocks_of_8_bits() -> None:
    values = matrix(n_in=80)
    integers, scales = quantize.int8_blocks([values[:20], values[20:]], 32)
    found = ((integers.astype(np.float32) - 128) * scales[:, :, None]).reshape(33, 96)[:, :80]
    steps = np.repeat(scales, 32, axis=1)[:, :80]
    assert (np.abs(found - values) <= steps * 0.51).all()


def test_a_scale_for_each_output() -> None:
    values = matrix()
    integers, scales = quantize.int8_channels([values[:20], values[20:]])
    assert integers.shape == (96, 33)
    found = integers.T.astype(np.float32) * scales[:, None]
    assert (np.abs(found - values) <= scales[:, None] * 0.51).all()
