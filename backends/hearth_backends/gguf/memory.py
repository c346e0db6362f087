"""What a stage takes, in bytes, before it is loaded; pure."""

from __future__ import annotations

from hearth_backends.base import Bytes, StageSpec
from hearth_backends.gguf.cutting import CUTS, Readout, is_whole
from hearth_backends.weights.spec import ModelSpec

CELL_STEP = 256
"""llama.cpp rounds the cells of a context up to this."""
WANTED_ROWS = 64
"""Rows of logits in one step, where there are not more sequences than that."""
KV_ELEMENT_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}


def n_cells(spec: StageSpec) -> int:
    """Cells of the context: never fewer than rows in a batch, which llama.cpp would cut down to them."""
    return -(-max(spec.kv_tokens, spec.n_rows) // CELL_STEP) * CELL_STEP


def uses_flash_attention(spec: StageSpec) -> bool:
    """Not with float32 keys and values: from 64 rows on llama.cpp's kernel rounds them (1e-2 in logits)."""
    return spec.kv_dtype != "f32"


def n_outputs(spec: StageSpec) -> int:
    """Rows that may leave a step; llama.cpp wants room for one of each sequence, and keeps it twice."""
    n_seq = spec.n_seq + 1  # the row of scratch
    return max(n_seq, min(spec.n_rows, WANTED_ROWS)) if spec.head else max(n_seq, spec.n_rows)


def estimate_bytes(model: ModelSpec, spec: StageSpec) -> Bytes:
    """Weights, key-value memory and compute buffers of a stage on the CPU."""
    return Bytes(_weights(model, spec), _kv(model, spec), _workspace(model, spec))


def _has_sentinel(model: ModelSpec, spec: StageSpec) -> bool:
    cut = CUTS.get(model.architecture)
    return not spec.head and cut is not None and cut.readout is Readout.LAYER_INPUT


def _weights(model: ModelSpec, spec: StageSpec) -> int:
    if is_whole(model, spec):
        return model.layer_bytes(0, model.n_layers) + model.outer_bytes()
    layers = model.layer_bytes(spec.first, spec.last)
    outer = 0
    embedding = _n_bytes(model, "model.embed_tokens.weight")
    if spec.embed:
        outer += embedding  # looked up in the mapped file
    if spec.head:
        outer += embedding if model.tied_embeddings else _n_bytes(model, "lm_head.weight")
    sentinel = 0
    if _has_sentinel(model, spec):
        last = (t for t in model.tensors.values() if t.layer == spec.last - 1)
        sentinel = sum(int(_n_elements(t.shape) * 18 / 32) for t in last)
    return layers + outer + sentinel


def _kv(model: ModelSpec, spec: StageSpec) -> int:
    """Keys and values of every cell; windowed layers keep as many as the others."""
    n_layers = spec.last - spec.first + _has_sentinel(model, spec)
    per_cell = 2 * n_layers * model.n_kv_heads * model.head_dim * KV_ELEMENT_BYTES[spec.kv_dtype]
    return int(n_cells(spec) * per_cell)


def _workspace(model: ModelSpec, spec: StageSpec) -> int:
    """Compute buffers, results, the vocabulary and graphs; the constants were measured."""
    n_vocab = model.n_vocab if spec.head else 1
    widest = max(model.d_ff * 2, model.d_model + 2 * model.n_heads * model.head_dim)
    activations = spec.n_rows * (4 * model.d_model + widest) * 4
    mask = spec.n_rows * n_cells(spec) * 6  # float32 as written, float16 as read
    scores = 0
    if not uses_flash_attention(spec):
        scores = spec.n_rows * n_cells(spec) * model.n_heads * 4
    logits = 2 * n_outputs(spec) * n_vocab * 4
    vocabulary = 256 * n_vocab if is_whole(model, spec) else 0
    return activations + mask + scores + logits + vocabulary + GRAPH_BYTES


GRAPH_BYTES = 8 << 20


def _n_bytes(model: ModelSpec, name: str) -> int:
    tensor = model.tensors.get(name)
    return 0 if tensor is None else tensor.n_bytes


def _n_elements(shape: tuple[int, ...]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n
