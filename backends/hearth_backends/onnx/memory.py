"""What a stage takes, in bytes, before it is loaded; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from hearth_backends.base import Bytes, StageSpec
from hearth_backends.onnx.kinds import kind_of, phases
from hearth_backends.onnx.packing import SMALL_BYTES
from hearth_backends.onnx.recipe import layer_recipe, padded_head_dim
from hearth_backends.onnx.stage import CHUNK_ROWS
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.recipe import head_matrix
from hearth_backends.weights.spec import ModelSpec

WANTED_ROWS = 64
"""Rows of logits in one step, where there are not more sequences than that."""
SESSION_BYTES = 32 << 20
"""The library itself, the graph and its arena at rest."""
LEFT_BEHIND_BYTES = 96 << 20
"""What packing a large model leaves with the allocator, at most (measured; a quarter of a small one)."""

_BITS = {
    "fp32": 32.0,
    "fp16": 16.0,
    "int8": 8.0,
    "int8-smooth": 8.0,
    "int8-32": 9.0,
    "int4-32": 5.0,
    "int4-128": 4.25,
    "uint4-32": 5.125,
    "uint4-128": 4.28125,
}
"""Of one number, with its part of the scales (float32) and zero points."""
_SUM_BITS = {
    "int8-32": 1.0, "int4-32": 1.0, "int4-128": 0.25, "uint4-32": 1.0, "uint4-128": 0.25,
}  # fmt: skip
"""Of one number's part of its block's sum, which kernels keep beside the blocks."""


def n_wanted(spec: StageSpec) -> int:
    """Rows that may leave the head in one step."""
    return max(spec.n_seq, min(spec.n_rows, WANTED_ROWS))


def kv_bits(spec: StageSpec) -> int:
    """Of one number in key-value memory: float32 unless weights are fp16, or 8-bit ones are asked for."""
    if spec.kv_dtype == "q8_0":
        return 8
    return 16 if spec.weight_kind == "fp16" else 32


def estimate_bytes(model: ModelSpec, spec: StageSpec) -> Bytes:
    """Weights as they are packed, key-value memory of every row at full length, and workspace."""
    return Bytes(_weights(model, spec), _kv(model, spec), _workspace(model, spec))


def packed_bytes(model: ModelSpec, spec: StageSpec) -> int:
    """Of the matrices as they are packed here, in all sets; norms and biases are not worth counting."""
    return _matrix_bytes(model, spec, _BITS)


def _matrix_bytes(model: ModelSpec, spec: StageSpec, bits: Mapping[str, float]) -> int:
    n_bits = 0.0
    for phase, matrix in product(phases(spec.weight_kind), _matrices(model, spec)):
        kind = kind_of(phase, matrix, model)
        n_bits += matrix.n_out * matrix.n_columns * bits.get(kind, 0.0)
    return int(n_bits / 8)


def _weights(model: ModelSpec, spec: StageSpec) -> int:
    """ONNX Runtime packs weights anew; a large file they came from can be reclaimed, memory cannot."""
    packed = packed_bytes(model, spec)
    in_memory = sum(
        n_bytes
        for phase in phases(spec.weight_kind)
        if (n_bytes := packed_bytes(model, replace(spec, weight_kind=phase))) <= SMALL_BYTES
    )
    sums = _matrix_bytes(model, spec, _SUM_BITS)
    embedding = model.tensors.get("model.embed_tokens.weight")
    looked_up = embedding.n_bytes if spec.embed and embedding is not None else 0
    return packed + in_memory + sums + looked_up


def _matrices(model: ModelSpec, spec: StageSpec) -> Iterator[Matrix]:
    for layer in range(spec.first, spec.last):
        recipe = layer_recipe(model, layer)
        yield from (recipe.qkv, recipe.output, recipe.gate, recipe.up, recipe.down)
    if spec.head:
        yield head_matrix(model)


def _kv(model: ModelSpec, spec: StageSpec) -> int:
    n_layers = spec.last - spec.first
    per_token = 2 * n_layers * model.n_kv_heads * padded_head_dim(model) * kv_bits(spec) // 8
    return spec.n_seq * spec.n_ctx * per_token


def _workspace(model: ModelSpec, spec: StageSpec) -> int:
    """Values of a layer, attention's scores, logits."""
    rows = max(min(spec.n_rows, CHUNK_ROWS), spec.n_seq)
    widths = 8 * model.d_model + 4 * model.d_ff + 3 * model.n_heads * padded_head_dim(model)
    scores = rows * model.n_heads * min(spec.n_ctx, CHUNK_ROWS) * 4
    logits = 2 * n_wanted(spec) * model.n_vocab * 4 if spec.head else 0
    left_behind = min(packed_bytes(model, spec) // 4, LEFT_BEHIND_BYTES)
    sessions = SESSION_BYTES + 4 * rows * widths  # each has an arena of its own
    return sessions * len(phases(spec.weight_kind)) + scores + logits + left_behind
