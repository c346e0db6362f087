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


def has_pools(model: ModelSpec, spec: StageSpec) -> bool:
    """Whether every sequence has cells of its own, or all share one pool.

    With one pool every row's attention passes over the cells of all sequences, idle ones too; with
    pools of their own sequences share no cells, so the memory must be there for each at full length
    (bench/RESULTS.md, "kv_unified"). Rows read by a callback come in batch order from one pool only.
    """
    by_callback = not spec.head and not _has_sentinel(model, spec)
    return spec.n_seq > 1 and spec.kv_tokens >= spec.n_seq * spec.n_ctx and not by_callback


def n_cells(model: ModelSpec, spec: StageSpec) -> int:
    """Cells of the context: never fewer than rows in a batch, which llama.cpp would cut down to them."""
    least = max(spec.kv_tokens, spec.n_rows)
    n_pools = spec.n_seq if has_pools(model, spec) else 1
    return n_pools * (-(-least // (n_pools * CELL_STEP)) * CELL_STEP)


def _n_visible(model: ModelSpec, spec: StageSpec) -> int:
    """Cells that one row's attention passes over."""
    if model.state is not None and not model.state.n_attention_layers:
        return 0
    return n_cells(model, spec) // (spec.n_seq if has_pools(model, spec) else 1)


def uses_flash_attention(spec: StageSpec) -> bool:
    """Not with float32 keys and values: from 64 rows on llama.cpp's kernel rounds them (1e-2 in logits)."""
    return spec.kv_dtype != "f32"


def n_outputs(spec: StageSpec) -> int:
    """Rows that may leave a step; llama.cpp wants room for one of each sequence, and keeps it twice."""
    return max(spec.n_seq, min(spec.n_rows, WANTED_ROWS) if spec.head else spec.n_rows)


def metadata_changes(model: ModelSpec, spec: StageSpec) -> dict[str, int]:
    """Metadata that llama.cpp must not take as the file has it.

    Of two sets of rope factors it takes that for long contexts when its cells are more than the
    original context. Here they hold many sequences, so the length of one has to decide.
    """
    original = model.rope.original_context
    if model.rope.scaling != "longrope" or original is None or spec.n_ctx > original:
        return {}
    return {f"{model.architecture}.rope.scaling.original_context_length": n_cells(model, spec)}


STATES_BYTES = 128 << 20
"""For saved states, where nobody says how much."""
MOST_STATES = 128


def n_states(model: ModelSpec, spec: StageSpec) -> int:
    """Saved states of a model that carries one: as many as there is room for, and unasked one a sequence.

    Where it keeps keys and values too, half of the room is for theirs.
    """
    if model.state is None:
        return 0
    fitting = min(MOST_STATES, _states_room(model, spec) // max(1, model.state.row_bytes))
    return max(spec.n_seq, fitting) if spec.state_bytes is None else fitting


def n_state_tokens(model: ModelSpec, spec: StageSpec) -> int | None:
    """Tokens, over all saved states, of whose keys and values there are copies; None: they have none."""
    if model.state is None or not model.state.n_attention_layers:
        return None
    return int(_states_room(model, spec) / _token_bytes(model, spec))


def _states_room(model: ModelSpec, spec: StageSpec) -> int:
    room = STATES_BYTES if spec.state_bytes is None else spec.state_bytes
    return room // 2 if model.state is not None and model.state.n_attention_layers else room


def estimate_bytes(model: ModelSpec, spec: StageSpec) -> Bytes:
    """Weights, key-value memory and compute buffers of a stage on the CPU.

    Of a whole model the weights stay mapped; types that llama.cpp repacks (Q4_0) are copied besides, and
    the pages they came from can be reclaimed: they are not counted.
    """
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
    """Keys and values of every cell; windowed layers keep as many as the others.

    Of a model that carries a state: the states of all sequences, and the saved ones.
    """
    n_bytes = int(n_cells(model, spec) * _token_bytes(model, spec))
    if model.state is not None:
        n_bytes += (spec.n_seq + n_states(model, spec)) * model.state.row_bytes
        n_bytes += int((n_state_tokens(model, spec) or 0) * _token_bytes(model, spec))
    return n_bytes


def _token_bytes(model: ModelSpec, spec: StageSpec) -> float:
    """Keys and values of one token in the layers of a stage."""
    n_layers = spec.last - spec.first + _has_sentinel(model, spec)
    if model.state is not None:
        n_layers = model.state.n_attention_layers
    return 2 * n_layers * model.n_kv_heads * model.head_dim * KV_ELEMENT_BYTES[spec.kv_dtype]


def _workspace(model: ModelSpec, spec: StageSpec) -> int:
    """Compute buffer, results, vocabulary and graphs, fitted to what llama.cpp reports and takes.

    The mask lasts through a step; logits and a layer's intermediate values take turns.
    """
    flash = uses_flash_attention(spec)
    mask = spec.n_rows * _n_visible(model, spec) * (2 if flash else 4)
    layer = spec.n_rows * (10 * model.d_model + 2 * model.d_ff) * 4
    if not flash:
        layer += spec.n_rows * _n_visible(model, spec) * model.n_heads * 4
    logits = n_outputs(spec) * (model.n_vocab if spec.head else 1) * 4
    vocabulary = VOCABULARY_BYTES * model.n_vocab if is_whole(model, spec) else 0
    return mask + max(layer, logits) + logits + vocabulary + GRAPH_BYTES


GRAPH_BYTES = 8 << 20
VOCABULARY_BYTES = 200  # of one token in llama.cpp's tables


def _n_bytes(model: ModelSpec, name: str) -> int:
    tensor = model.tensors.get(name)
    return 0 if tensor is None else tensor.n_bytes


def _n_elements(shape: tuple[int, ...]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n
