"""What a stage takes, in bytes, before it is loaded; and which errors say that there was not enough; pure."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hearth_backends.base import Bytes, StageSpec
from hearth_backends.cuda.pool import n_blocks
from hearth_backends.cuda.precision import Precision
from hearth_backends.kv.contract import BLOCK_TOKENS
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.recipe import head_matrix, layer_recipe
from hearth_backends.weights.spec import ModelSpec

WANTED_ROWS = 64
"""Rows of logits in one step, where there are not more sequences than that."""
ENGINE_BYTES = {True: 96 << 20, False: 512 << 20}
"""By whether it is the processor: libraries and what they keep (of a GPU: context, cuBLAS, recorded steps)."""

BYTES_PER_THREAD = 8 << 20
"""Weights that keep one thread of the processor busy for a step; with fewer, threads mostly wait for each other."""


def useful_threads(spec: StageSpec, weights_bytes: int) -> int:
    """The threads asked for, or as many as the weights keep busy."""
    return max(1, min(spec.threads, weights_bytes // BYTES_PER_THREAD))


def n_wanted(spec: StageSpec) -> int:
    """Rows that may leave the head in one step."""
    return max(spec.n_seq, min(spec.n_rows, WANTED_ROWS))


def estimate_bytes(
    model: ModelSpec, spec: StageSpec, precision: Precision, *, is_cpu: bool, n_devices: int = 1
) -> Bytes:
    """Weights and key-value memory of one device nearly to the byte, workspace about."""
    return Bytes(
        _weights(model, spec, precision, n_devices),
        _kv(model, spec, precision) // n_devices,
        _workspace(model, spec, precision) + ENGINE_BYTES[is_cpu],
    )


def _weights(model: ModelSpec, spec: StageSpec, precision: Precision, n_devices: int) -> int:
    width = precision.compute.itemsize
    layers = sum(precision.bytes_of(m, model) for m in _layer_matrices(model, spec)) // n_devices
    outer = model.n_vocab * model.d_model * width if spec.embed else 0
    if spec.head:
        head = head_matrix(model)
        is_shared = (
            spec.embed
            and "lm_head.weight" not in model.tensors
            and precision.kind_of(head, model) == precision.compute_name
        )
        outer += 0 if is_shared else precision.bytes_of(head, model)
    ropes = spec.n_ctx * model.head_dim * 4
    return layers + outer + ropes


def _layer_matrices(model: ModelSpec, spec: StageSpec) -> Iterator[Matrix]:
    for layer in range(spec.first, spec.last):
        recipe = layer_recipe(model, layer)
        yield from (recipe.qkv, recipe.output, recipe.gate, recipe.up, recipe.down)


def _kv(model: ModelSpec, spec: StageSpec, precision: Precision) -> int:
    n_layers = spec.last - spec.first
    per_token = 2 * n_layers * model.n_kv_heads * model.head_dim * precision.kv.itemsize
    return n_blocks(spec.kv_tokens) * BLOCK_TOKENS * per_token


def _workspace(model: ModelSpec, spec: StageSpec, precision: Precision) -> int:
    """Values of a layer, logits in two types, block tables."""
    heads = (2 * model.n_heads + 2 * model.n_kv_heads) * model.head_dim
    widths = 6 * model.d_model + 3 * model.d_ff + heads
    values = spec.n_rows * widths * precision.compute.itemsize
    logits = 3 * n_wanted(spec) * model.n_vocab * 4 if spec.head else 0
    tables = 2 * (spec.n_seq + 1) * -(-spec.n_ctx // BLOCK_TOKENS) * 4
    return values + logits + tables


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or Python, says that memory could not be had."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
