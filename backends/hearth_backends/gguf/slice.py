"""A GGUF of some layers of another one, in anonymous memory; quantized blocks are copied byte for byte."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType

from hearth_backends.base import StageSpec
from hearth_backends.errors import ModelFileError
from hearth_backends.gguf.cutting import CUTS, Readout
from hearth_backends.weights.gguf_file import GgufFile
from hearth_backends.weights.gguf_header import Entry, StringArray

_NOT_COPIED = ("GGUF.", "general.architecture", "tokenizer.", "split.")
_SHARED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_ZEROS = GGMLQuantizationType.Q4_0


@contextmanager
def sliced_file(file: GgufFile, spec: StageSpec) -> Iterator[str]:
    """A path to a GGUF with layers [first, last) numbered from 0, as long as the context lasts.

    It takes vectors, not tokens. Without head it ends where `CUTS` says the hidden states are read.
    """
    descriptor = os.memfd_create("hearth-stage", os.MFD_CLOEXEC)
    try:
        path = f"/proc/self/fd/{descriptor}"
        _write(path, file, spec)
        yield path
    finally:
        os.close(descriptor)


def has_sentinel(architecture: str, spec: StageSpec) -> bool:
    """Whether the slice ends in a layer of zeros, there so that its input can be read."""
    return not spec.head and CUTS[architecture].readout is Readout.LAYER_INPUT


def _write(path: str, file: GgufFile, spec: StageSpec) -> None:
    architecture = file.spec.architecture
    writer = gguf.GGUFWriter(path, architecture)
    n_layers = spec.last - spec.first + has_sentinel(architecture, spec)
    for key, entry in _sliced_metadata(file, spec, n_layers).items():
        writer.add_key_value(key, plain_value(entry), entry.type, entry.of)
    writer.add_tokenizer_model("no_vocab")
    _add_outer_tensors(writer, file, spec)
    _add_layers(writer, file, spec)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- metadata ----------------------------------------------------------------------------------


def _sliced_metadata(file: GgufFile, spec: StageSpec, n_layers: int) -> Mapping[str, Entry]:
    """The model's own keys, with what counts or lists layers made to fit the slice."""
    model = file.spec
    prefix = model.architecture + "."
    entries: dict[str, Entry] = {}
    for key, entry in file.header.metadata.items():
        if key.startswith(_NOT_COPIED):
            continue
        is_per_layer = isinstance(entry.value, np.ndarray) and len(entry.value) == model.n_layers
        entries[key] = (
            _slice_array(entry, spec, n_layers)
            if key.startswith(prefix) and is_per_layer
            else entry
        )
    u32 = GGUFValueType.UINT32
    entries[prefix + "block_count"] = Entry(n_layers, u32)
    entries[prefix + "vocab_size"] = Entry(model.n_vocab if spec.head else 1, u32)
    period = CUTS[model.architecture].window_period
    if period:
        key = prefix + "attention.sliding_window_pattern"
        said = entries[key].value if key in entries else period
        if isinstance(said, int):
            entries[key] = _window_pattern(spec, said, n_layers)
    return entries


def _slice_array(entry: Entry, spec: StageSpec, n_layers: int) -> Entry:
    """The part of a per-layer array; a sentinel repeats the last value."""
    values = np.asarray(entry.value)[spec.first : spec.last]
    padding = np.repeat(values[-1:], n_layers - len(values))
    return Entry(np.concatenate([values, padding]), entry.type, entry.of)


def _window_pattern(spec: StageSpec, period: int, n_layers: int) -> Entry:
    """Which layers see a window only, written out: by period it would begin anew at the cut."""
    layers = np.arange(spec.first, spec.first + n_layers)
    return Entry(layers % period < period - 1, GGUFValueType.ARRAY, GGUFValueType.BOOL)


def plain_value(entry: Entry) -> Any:
    """A value as the writer takes it."""
    if isinstance(entry.value, np.ndarray):
        return entry.value.tolist()
    if isinstance(entry.value, StringArray):
        return [text.decode("utf-8", "replace") for text in entry.value]
    return entry.value


# --- tensors -----------------------------------------------------------------------------------


def _add_outer_tensors(writer: gguf.GGUFWriter, file: GgufFile, spec: StageSpec) -> None:
    """Norm and head, or stand-ins that llama.cpp insists on; the head is stored once, as if tied."""
    model = file.spec
    if spec.head:
        head = "token_embd.weight" if model.tied_embeddings else "output.weight"
        _copy(writer, file, head, "token_embd.weight")
        _copy(writer, file, "output_norm.weight", "output_norm.weight")
    else:
        writer.add_tensor("token_embd.weight", np.zeros((1, model.d_model), np.float32))
        writer.add_tensor("output_norm.weight", np.ones(model.d_model, np.float32))
    stored = {tensor.name for tensor in file.header.tensors}
    for name in _SHARED:
        if name in stored:
            _copy(writer, file, name, name)


def _add_layers(writer: gguf.GGUFWriter, file: GgufFile, spec: StageSpec) -> None:
    model = file.spec
    found: set[int] = set()
    for tensor in model.tensors.values():
        if tensor.layer is None or not spec.first <= tensor.layer < spec.last:
            continue
        found.add(tensor.layer)
        rest = tensor.stored_name.split(".", 2)[2]
        _copy(writer, file, tensor.stored_name, f"blk.{tensor.layer - spec.first}.{rest}")
        if tensor.layer == spec.last - 1 and has_sentinel(model.architecture, spec):
            _add_zeros(writer, f"blk.{spec.last - spec.first}.{rest}", tensor.shape)
    if len(found) != spec.last - spec.first:
        missing = sorted(set(range(spec.first, spec.last)) - found)
        raise ModelFileError(f"{file.path}: it has no tensors of layer {missing[0]}")


def _copy(writer: gguf.GGUFWriter, file: GgufFile, stored_name: str, name: str) -> None:
    data, kind = file.stored(stored_name)
    writer.add_tensor(name, data, raw_dtype=kind if data.dtype == np.uint8 else None)


def _add_zeros(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...]) -> None:
    """Zeros of that shape, as small as they come."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[_ZEROS]
    if len(shape) == 2 and shape[1] % block == 0:
        data = np.zeros((shape[0], shape[1] // block * block_bytes), np.uint8)
        writer.add_tensor(name, data, raw_dtype=_ZEROS)
    else:
        writer.add_tensor(name, np.zeros(shape, np.float32))
