"""TensorReader: one way to a model's tensors, whatever the file format."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.gguf_file import GgufFile, to_halves
from hearth_backends.weights.gguf_variant import gguf_variant
from hearth_backends.weights.spec import ModelSpec
from hearth_backends.weights.variant import Variant

F32 = NDArray[np.float32]


class Blocks(NamedTuple):
    """A quantized matrix as the file stores it: [rows, bytes of a row], rows in canonical order."""

    data: NDArray[np.uint8]
    kind: Literal["Q4_0", "Q8_0"]


class TensorReader(Protocol):
    """A model's tensors by canonical name, each read when it is asked for.

    Which there are, with shapes, types and layers, stands in `spec.tensors`. Safe to use from several
    threads; files stay mapped for as long as the reader or an array it gave out lives.
    """

    @property
    def spec(self) -> ModelSpec: ...

    def variant(self, n_ctx: int) -> Variant:
        """How the decoder computes sequences of up to n_ctx tokens; raises Unsupported."""

    def tensor(self, name: str) -> F32:
        """The tensor in canonical shape and order; raises ModelFileError, Unsupported for its type."""

    def rows(self, name: str, indices: NDArray[np.int32]) -> F32:
        """Rows [n, in] of a matrix whose rows are in canonical order in the file (embeddings, head)."""

    def blocks(self, name: str) -> Blocks | None:
        """The quantized rows of a matrix, where they are of a kind that is taken over as it is."""


def open_reader(model: ModelSpec) -> TensorReader:
    """The reader of a model's files; raises ModelFileError, also where they have changed since."""
    if model.path is None:
        raise ModelFileError(f"{model.name} has no file")
    if model.format != "gguf":
        raise Unsupported(f"{model.path}: no reader for the tensors of a {model.format} model")
    reader = GgufReader(GgufFile(model.path))
    if reader.spec.digest != model.digest:
        raise ModelFileError(f"{model.path}: the file has changed since it was described")
    return reader


class GgufReader:
    """A TensorReader over one GGUF file."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self.spec = file.spec

    def variant(self, n_ctx: int) -> Variant:
        """See TensorReader."""
        return gguf_variant(self._file, n_ctx)

    def tensor(self, name: str) -> F32:
        """See TensorReader."""
        return self._file.tensor(name)

    def rows(self, name: str, indices: NDArray[np.int32]) -> F32:
        """See TensorReader."""
        return self._file.rows(name, indices)

    def blocks(self, name: str) -> Blocks | None:
        """See TensorReader."""
        data, kind = self._file.raw(name)
        if kind not in _TAKEN_OVER:
            return None
        rows = data.view(np.uint8)
        n_heads = self._file.interleaved_heads(name)
        return Blocks(rows if n_heads is None else to_halves(rows, n_heads), _TAKEN_OVER[kind])


_TAKEN_OVER: dict[GGMLQuantizationType, Literal["Q4_0", "Q8_0"]] = {
    GGMLQuantizationType.Q4_0: "Q4_0",
    GGMLQuantizationType.Q8_0: "Q8_0",
}
