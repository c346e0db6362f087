"""What an encoder takes, in bytes, before it is loaded; pure."""

from __future__ import annotations

from hearth_backends.base import Bytes
from hearth_backends.encoder import EncoderSpec
from hearth_backends.gguf.memory import CELL_STEP, GRAPH_BYTES, KV_ELEMENT_BYTES, VOCABULARY_BYTES
from hearth_backends.weights.spec import ModelSpec


def n_cells(spec: EncoderSpec) -> int:
    """Cells of a causal model's keys and values: one for each row of a batch."""
    return -(-spec.n_rows // CELL_STEP) * CELL_STEP


def is_exact(spec: EncoderSpec) -> bool:
    """Whether attention is computed in single precision, which takes two to three times as long."""
    return spec.kv_dtype == "f32"


def estimate_encoder_bytes(model: ModelSpec, spec: EncoderSpec) -> Bytes:
    """Weights, keys and values, and compute buffers, for the largest batch.

    A batch is one matrix for attention, whoever its rows belong to.
    """
    weights = model.layer_bytes(0, model.n_layers) + model.outer_bytes()
    kv = 0.0
    if model.encoding.generates:
        per_cell = 2 * model.n_layers * model.n_kv_heads * model.head_dim
        kv = n_cells(spec) * per_cell * KV_ELEMENT_BYTES[spec.kv_dtype]
    exact = is_exact(spec)
    mask = spec.n_rows * n_cells(spec) * (4 if exact else 2)
    layer = spec.n_rows * (10 * model.d_model + 2 * model.d_ff) * 4
    scores = spec.n_rows * n_cells(spec) * model.n_heads * 4 if exact else 0
    results = spec.n_rows * model.d_model * 4
    vocabulary = VOCABULARY_BYTES * model.n_vocab
    return Bytes(weights, int(kv), mask + layer + scores + results + vocabulary + GRAPH_BYTES)
