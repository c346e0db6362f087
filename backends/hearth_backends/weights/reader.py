"""TensorReader: one way to a model's tensors, whatever the file format."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hearth_backends.weights.spec import ModelSpec
from hearth_backends.weights.variant import Variant

F32 = NDArray[np.float32]


class Blocks(NamedTuple):
    """A quantized matrix as the file stores it: [rows, bytes of a row], rows in canonical order."""

    data: NDArray[np.uint8]
    kind: Literal["Q4_0", "Q8_0"]


class Groups(NamedTuple):
    """A 4-bit matrix [n_out, n_in] as the file stores it: (integer - zero point) * scale."""

    packed: NDArray[
        np.uint8
    ]  # [n_out, n_in / 2], two neighbours to a byte, the first in the low half
    scales: F32  # [n_out, n_groups]
    zeros: NDArray[np.uint8] | None  # [n_out, n_groups]; None: 8 throughout
    size: int  # inputs of a group

    def all_zeros(self) -> NDArray[np.uint8]:
        """Zero points, also where all are 8."""
        return np.full(self.scales.shape, 8, np.uint8) if self.zeros is None else self.zeros


def packed_pairs(integers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Integers of 4 bits [..., n] as `Groups` has them [..., n / 2]."""
    packed: NDArray[np.uint8] = integers[..., 0::2] | (integers[..., 1::2] << np.uint8(4))
    return packed


class Channels(NamedTuple):
    """An 8-bit matrix as the file stores it: integer * scale of its output."""

    integers: NDArray[np.int8]  # [n_out, n_in]
    scales: F32  # [n_out]


class Floats8(NamedTuple):
    """A matrix of 8-bit floats (E4M3) as the file stores it: number * scale of its output."""

    codes: NDArray[np.uint8]  # [n_out, n_in]
    scales: F32  # [n_out]


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

    def groups(self, name: str) -> Groups | None:
        """A matrix in groups of 4-bit integers, where it is stored so; raises as `tensor` does."""

    def channels(self, name: str) -> Channels | None:
        """A matrix of 8-bit integers without zero points, where it is stored so."""

    def floats8(self, name: str) -> Floats8 | None:
        """A matrix of 8-bit floats, where it is stored so."""
