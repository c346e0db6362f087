"""Model files: writes a GGUF of a given shape, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import gguf
import numpy as np
from numpy.typing import NDArray

from hearth_bench.blocks import (
    F32_KIND,
    FILE_TYPES,
    Kind,
    matrix_kind,
    random_matrix,
    stored_bytes,
)
from hearth_bench.shapes import Place, Shape
from hearth_bench.vocabulary import Vocabulary

LOGIT_DEVIATION = 5.0
"""Of random weights' logits: one token in twenty is then within 1e-6 of the best one's probability,

which is more than a trained model leaves to a sampler, but far from all."""


class Weights(Protocol):
    """Where a file's tensors come from."""

    def tensor(self, place: Place, kind: Kind) -> NDArray[np.generic]:
        """One tensor as its type stores it."""


class RandomWeights:
    """Weights that keep activations of the order of one through all layers."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self._shape = shape
        self._rng = np.random.default_rng(seed)

    def tensor(self, place: Place, kind: Kind) -> NDArray[np.generic]:
        """Ones for norms, zeros for biases, noise for matrices."""
        if place.role.endswith("norm"):
            return np.ones(place.shape, np.float32)
        if place.role.endswith("bias"):
            return np.zeros(place.shape, np.float32)
        rows, columns = place.shape
        deviation = columns**-0.5
        if place.role == "output" or (self._shape.tied and place.role == "token_embd"):
            deviation *= LOGIT_DEVIATION
        return random_matrix(self._rng, (rows, columns), kind, deviation)


def write_model(
    path: Path, shape: Shape, kind: str, vocabulary: Vocabulary, weights: Weights, name: str
) -> None:
    """Write beside `path` first, so that readers never see half a file."""
    draft = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(draft, shape.architecture)
    _add_sizes(writer, shape, kind, name)
    for key, field in vocabulary.fields.items():
        writer.add_key_value(key, field.value, field.kind, field.element)
    kinds = {place.name: _kind_of(place, kind) for place in shape.places()}
    for place in shape.places():
        stored_kind = kinds[place.name]
        writer.add_tensor_info(
            place.name,
            place.shape,
            np.dtype(np.float32),  # with it, the shape counts weights whatever they are stored as
            stored_bytes(place.shape, stored_kind),
            raw_dtype=stored_kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for place in shape.places():
        writer.write_tensor_data(weights.tensor(place, kinds[place.name]))
    writer.close()
    draft.replace(path)


def _kind_of(place: Place, kind: str) -> Kind:
    return F32_KIND if len(place.shape) == 1 else matrix_kind(kind, place.role)


def _add_sizes(writer: gguf.GGUFWriter, shape: Shape, kind: str, name: str) -> None:
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.d_model)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.d_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.n_vocab)
