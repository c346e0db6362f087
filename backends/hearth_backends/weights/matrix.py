"""Matrix: one weight of a decoder, put together from the model's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hearth_backends.weights.reader import Blocks, Channels, Floats8, Groups, TensorReader

F32 = NDArray[np.float32]
Stored = TypeVar("Stored", Blocks, Groups, Channels, Floats8)

CHUNK_ELEMENTS = 1 << 20
"""Read at a time where a matrix is quantized: a head of a large vocabulary is gigabytes in float32."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Rows (or columns) of a tensor that are heads, and the length that each is filled up to.

    ONNX Runtime's attention takes heads of multiples of 16. Where they are rotated, each half is filled
    up on its own, so that pairs stay pairs.
    """

    n: int
    dim: int
    padded: int
    rotated: bool = False

    def fill(self, values: F32) -> F32:
        """[n * dim, ...] to [n * padded, ...], zeros in between."""
        if self.dim == self.padded:
            return values
        n_parts = 2 if self.rotated else 1
        source = values.reshape(self.n * n_parts, self.dim // n_parts, -1)
        filled = np.zeros((self.n * n_parts, self.padded // n_parts, source.shape[2]), np.float32)
        filled[:, : source.shape[1]] = source
        return filled.reshape(self.n * self.padded, *values.shape[1:])


@dataclass(frozen=True, slots=True)
class Part:
    """Rows [first, last) of a tensor, filled up where they are heads."""

    tensor: str
    n_rows: int  # of what is read, before filling
    first: int = 0
    heads: Heads | None = None

    @property
    def n_filled(self) -> int:
        return self.n_rows if self.heads is None else self.heads.n * self.heads.padded

    @property
    def is_filled(self) -> bool:
        return self.heads is not None and self.heads.dim != self.heads.padded

    def chunks(self, reader: TensorReader) -> Iterator[F32]:
        """Its rows, some at a time; heads, which a file may keep in another order, all at once."""
        if self.heads is not None:
            yield self.read(reader)
            return
        n_in = reader.spec.tensors[self.tensor].shape[1]
        step = max(1, CHUNK_ELEMENTS // n_in)
        last = self.first + self.n_rows
        for at in range(self.first, last, step):
            yield reader.rows(self.tensor, np.arange(at, min(at + step, last), dtype=np.int32))

    def read(self, reader: TensorReader) -> F32:
        values = reader.tensor(self.tensor)[self.first : self.first + self.n_rows]
        return values if self.heads is None else self.heads.fill(values)


@dataclass(frozen=True, slots=True)
class Matrix:
    """[n_out, n_in], of parts one below the other; columns are filled up where they are heads."""

    name: str
    parts: tuple[Part, ...]
    n_in: int
    column_heads: Heads | None = None

    @property
    def n_out(self) -> int:
        return sum(part.n_filled for part in self.parts)

    @property
    def n_columns(self) -> int:
        """n_in, filled up."""
        heads = self.column_heads
        return self.n_in if heads is None else heads.n * heads.padded

    def read(self, reader: TensorReader) -> F32:
        """All of it, [n_out, n_columns]; or a vector [n_out], of vectors."""
        values = [part.read(reader) for part in self.parts]
        whole = values[0] if len(values) == 1 else np.concatenate(values)
        if self.column_heads is None or self.column_heads.dim == self.column_heads.padded:
            return whole
        return np.ascontiguousarray(self.column_heads.fill(np.ascontiguousarray(whole.T)).T)

    def chunks(self, reader: TensorReader) -> Iterator[F32]:
        """Rows [some, n_columns] one after the other, which together are the matrix."""
        heads = self.column_heads
        if heads is not None and heads.dim != heads.padded:
            yield self.read(reader)
            return
        for part in self.parts:
            yield from part.chunks(reader)

    def blocks(self, reader: TensorReader) -> Blocks | None:
        """The quantized rows as the file stores them, where all parts are of one kind and unfilled."""
        stored = self._stored(reader.blocks)
        if stored is None or len({blocks.kind for blocks, _ in stored}) != 1:
            return None
        pieces = [blocks.data[rows] for blocks, rows in stored]
        kind = stored[0][0].kind
        return Blocks(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), kind)

    def groups(self, reader: TensorReader) -> Groups | None:
        """The 4-bit groups as the file stores them, where all parts have ones of a size and unfilled."""
        stored = self._stored(reader.groups)
        if stored is None or len({groups.size for groups, _ in stored}) != 1:
            return None
        zeros = None
        if any(groups.zeros is not None for groups, _ in stored):
            zeros = np.concatenate([groups.all_zeros()[rows] for groups, rows in stored])
        return Groups(
            np.concatenate([groups.packed[rows] for groups, rows in stored]),
            np.concatenate([groups.scales[rows] for groups, rows in stored]),
            zeros,
            stored[0][0].size,
        )

    def channels(self, reader: TensorReader) -> Channels | None:
        """The 8-bit integers as the file stores them, where all parts have such and are unfilled."""
        stored = self._stored(reader.channels)
        if stored is None:
            return None
        return Channels(
            np.concatenate([channels.integers[rows] for channels, rows in stored]),
            np.concatenate([channels.scales[rows] for channels, rows in stored]),
        )

    def floats8(self, reader: TensorReader) -> Floats8 | None:
        """The 8-bit floats as the file stores them, where all parts have such and are unfilled."""
        stored = self._stored(reader.floats8)
        if stored is None:
            return None
        return Floats8(
            np.concatenate([floats.codes[rows] for floats, rows in stored]),
            np.concatenate([floats.scales[rows] for floats, rows in stored]),
        )

    def _stored(self, of: Callable[[str], Stored | None]) -> list[tuple[Stored, slice]] | None:
        """What the file has of each part's tensor and the part's rows in it; None unless it has all of them as they are."""
        if self._is_filled:
            return None
        stored = []
        for part in self.parts:
            found = of(part.tensor)
            if found is None:
                return None
            stored.append((found, slice(part.first, part.first + part.n_rows)))
        return stored

    @property
    def _is_filled(self) -> bool:
        heads = self.column_heads
        return any(part.is_filled for part in self.parts) or (
            heads is not None and heads.dim != heads.padded
        )
