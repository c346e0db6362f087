"""GgufReader: a GGUF file as a TensorReader."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from hearth_backends.weights.gguf_file import GgufFile, to_halves
from hearth_backends.weights.gguf_variant import gguf_variant
from hearth_backends.weights.reader import F32, Blocks, Channels, Floats8, Groups
from hearth_backends.weights.variant import Variant


class GgufReader:
    """A TensorReader over one GGUF file."""

    def __init__(self, path: Path) -> None:
        """Map the file and read its header; raises ModelFileError, Unsupported."""
        self._file = GgufFile(path)
        self.spec = self._file.spec

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

    def groups(self, name: str) -> Groups | None:
        """See TensorReader: what GGUF has of the kind are blocks."""
        return None

    def channels(self, name: str) -> Channels | None:
        """See TensorReader: what GGUF has of the kind are blocks."""
        return None

    def floats8(self, name: str) -> Floats8 | None:
        """See TensorReader: GGUF has none."""
        return None


_TAKEN_OVER: dict[GGMLQuantizationType, Literal["Q4_0", "Q8_0"]] = {
    GGMLQuantizationType.Q4_0: "Q4_0",
    GGMLQuantizationType.Q8_0: "Q8_0",
}
