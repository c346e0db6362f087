"""The part of a LoRA adapter that belongs to some layers, as a GGUF in anonymous memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
from gguf.quants import quant_shape_to_byte_shape

from hearth_backends.base import StageSpec
from hearth_backends.gguf.slice import plain_value
from hearth_backends.weights.gguf_file import PLAIN_TYPES, map_file
from hearth_backends.weights.gguf_header import StoredTensor, parse_header

_LAYER = re.compile(r"blk\.(\d{1,6})\.(.*)")


@contextmanager
def sliced_adapter(path: Path, spec: StageSpec) -> Iterator[str | None]:
    """A path to what the adapter has of layers [first, last), numbered from 0; None: it has nothing.

    The file is one that `open_adapter` took.
    """
    data = map_file(path)
    header = parse_header(data.data)
    tensors = [(name, t) for t in header.tensors if (name := _name_in(t, spec)) is not None]
    if not tensors:
        yield None
        return
    descriptor = os.memfd_create("hearth-adapter", os.MFD_CLOEXEC)
    try:
        slice_path = f"/proc/self/fd/{descriptor}"
        architecture = str(header.metadata["general.architecture"].value)
        writer = gguf.GGUFWriter(slice_path, architecture)
        for key, entry in header.metadata.items():
            if key == "general.type" or key.startswith("adapter."):
                writer.add_key_value(key, plain_value(entry), entry.type, entry.of)
        for name, tensor in tensors:
            stored = data[tensor.offset : tensor.offset + tensor.n_bytes]
            if tensor.type in PLAIN_TYPES:
                plain = stored.view(PLAIN_TYPES[tensor.type]).reshape(tensor.shape)
                writer.add_tensor(name, plain)
            else:
                shape = quant_shape_to_byte_shape(tensor.shape, tensor.type)
                writer.add_tensor(name, stored.reshape(shape), raw_dtype=tensor.type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        yield slice_path
    finally:
        os.close(descriptor)


def outside_layers(path: Path) -> str | None:
    """The name of a tensor that the adapter adapts and that is in no layer; None where there is none."""
    header = parse_header(map_file(path).data)
    names = (tensor.name for tensor in header.tensors)
    return next((name.rpartition(".")[0] for name in names if not _LAYER.match(name)), None)


def _name_in(tensor: StoredTensor, spec: StageSpec) -> str | None:
    """What a tensor is called in the slice; None where it is of another layer."""
    match = _LAYER.fullmatch(tensor.name)
    if match is None or not spec.first <= int(match[1]) < spec.last:
        return None
    return f"blk.{int(match[1]) - spec.first}.{match[2]}"
