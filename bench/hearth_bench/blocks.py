"""Blocks: weights in the types of a GGUF file, drawn at random or converted from float32."""

from __future__ import annotations

from typing import TypeAlias

import gguf
import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = gguf.GGMLQuantizationType

F32_KIND = gguf.GGMLQuantizationType.F32
KINDS = {name: gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "Q8_0", "Q4_0")}
FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
BLOCK = 32
"""Weights of one row that share a scale, in both quantized types."""


def matrix_kind(kind: str, role: str) -> Kind:
    """The type of a matrix: embedding and head of a Q4_0 file are Q8_0, as quantizing tools leave them.

    (They would take Q6_K where 256 divides the width; Q8_0 is their second choice, and the only one
    for a width of 896.)
    """
    if kind == "Q4_0" and role in ("token_embd", "output"):
        return KINDS["Q8_0"]
    return KINDS[kind]


def stored_bytes(shape: tuple[int, ...], kind: Kind) -> int:
    """Size of a tensor in the file."""
    block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"rows of {shape[-1]} cannot be cut into blocks of {block} ({kind.name})")
    return int(np.prod(shape)) // block * n_bytes


def random_matrix(
    rng: np.random.Generator, shape: tuple[int, int], kind: Kind, deviation: float
) -> NDArray[np.generic]:
    """Weights of mean zero; quantized ones are drawn as blocks, at the speed of random bytes."""
    if kind in (KINDS["F32"], KINDS["F16"]):
        dtype = np.float32 if kind == F32_KIND else np.float16
        weights = rng.standard_normal(shape, np.float32)
        weights *= deviation
        return weights.astype(dtype, copy=False)
    rows, columns = shape
    n_bytes = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = np.frombuffer(rng.bytes(stored_bytes(shape, kind)), np.uint8).copy()
    blocks = blocks.reshape(rows * columns // BLOCK, n_bytes)
    if kind == KINDS["Q8_0"]:
        scale = deviation / np.sqrt((256**2 - 1) / 12)  # of a byte, evenly drawn
    else:
        scale = deviation / np.sqrt((16**2 - 1) / 12)  # of half a byte
    # Integers from -128 to 127 (-8 to 7) have a mean below zero; a sign for each block evens it out.
    scales = np.full(len(blocks), scale, np.float16)
    scales[blocks[:, 0] < 128] *= -1
    blocks[:, :2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def stored(weights: F32, kind: Kind) -> NDArray[np.generic]:
    """Float weights as a file of that type holds them."""
    return np.asarray(gguf.quants.quantize(np.ascontiguousarray(weights), kind))


def rounded(weights: F32, kind: Kind) -> F32:
    """What is left of float weights after a stay in that type; rows of any length."""
    n_columns = weights.shape[1]
    padded = np.pad(weights, ((0, 0), (0, -n_columns % BLOCK)))
    back = gguf.quants.dequantize(stored(padded, kind), kind)
    return np.asarray(back, np.float32)[:, :n_columns]
