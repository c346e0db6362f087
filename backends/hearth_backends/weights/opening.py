"""From a ModelSpec to the reader of its tensors, whatever the file format."""

from __future__ import annotations

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.checkpoint import Checkpoint
from hearth_backends.weights.gguf_reader import GgufReader
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.spec import ModelSpec


def open_reader(model: ModelSpec) -> TensorReader:
    """The reader of a model's files; raises ModelFileError, also where they have changed since."""
    if model.path is None:
        raise ModelFileError(f"{model.name} has no file")
    if model.format not in ("gguf", "safetensors"):
        raise Unsupported(f"{model.path}: no reader for the tensors of a {model.format} model")
    path = model.path
    reader: TensorReader = GgufReader(path) if model.format == "gguf" else Checkpoint(path)
    if reader.spec.digest != model.digest:
        raise ModelFileError(f"{path}: the file has changed since it was described")
    return reader
