"""ModelSpec: what any backend needs to know of a model before it loads a byte of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hearth_backends.weights.encoding import GENERATES, EncodingSpec


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding: base, rotated dimensions, and the scaling the file asks for."""

    theta: float
    n_dims: int
    scaling: str = "none"  # "none" | "linear" | "yarn" | "llama3" | "longrope"
    factor: float = 1.0
    original_context: int | None = None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file under its canonical (Hugging Face) name."""

    name: str  # canonical, "model.layers.0.self_attn.q_proj.weight"
    stored_name: str  # as in the file, "blk.0.attn_q.weight"
    shape: tuple[int, ...]  # row-major, [out, in]
    dtype: str  # "F32", "F16", "Q4_0", ...
    n_bytes: int
    layer: int | None  # None: outside the layers


@dataclass(frozen=True, slots=True)
class StateSpec:
    """What a recurrent or hybrid model carries along in place of every token's keys and values."""

    n_layers: int  # that carry a state
    n_attention_layers: int  # that keep keys and values
    layer_elements: int  # float32 numbers that one layer carries of one sequence

    @property
    def row_bytes(self) -> int:
        """Of what is carried of one sequence, over all layers."""
        return 4 * self.n_layers * self.layer_elements


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model's architecture, dimensions, tokenizer facts and tensors; no weights."""

    path: Path | None  # None: the simulated model
    format: str  # "gguf" | "safetensors" | "sim"
    digest: str  # hexadecimal; names these weights
    name: str  # as the file calls itself
    architecture: str  # "llama", "qwen2", ...
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    n_vocab: int
    context_trained: int
    norm_eps: float
    rope: RopeSpec
    tied_embeddings: bool
    quantization: str  # the file's prevailing type: "Q4_0", "F32"
    file_bytes: int
    n_parameters: int
    chat_template: str | None
    bos_id: int | None
    eos_id: int | None
    end_ids: frozenset[int]
    add_bos: bool
    tensors: Mapping[str, TensorInfo] = field(repr=False)  # by canonical name
    sliding_window: int | None = None  # tokens that some layers see; None: the file names none
    encoding: EncodingSpec = GENERATES
    state: StateSpec | None = None  # None: all that it remembers are keys and values

    def layer_bytes(self, first: int, last: int) -> int:
        """Bytes of the tensors of layers [first, last)."""
        return sum(
            t.n_bytes
            for t in self.tensors.values()
            if t.layer is not None and first <= t.layer < last
        )

    def outer_bytes(self) -> int:
        """Bytes of the tensors outside the layers: embedding, final norm, head."""
        return sum(t.n_bytes for t in self.tensors.values() if t.layer is None)
