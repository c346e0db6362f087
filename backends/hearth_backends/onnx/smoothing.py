"""Smoothing: what makes activations hard to round is moved into the weights that they are multiplied by; pure.

A few inputs of a matrix may be a hundred times larger than the others, always the same ones. Rounded to
8 bits with one scale for a row, the others are lost beside them. Dividing an input by a factor, in the
norm or the matrix that it comes from, and multiplying the matrix's column by it changes nothing in exact
numbers (SmoothQuant, Xiao et al., 2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from hearth_backends.weights.matrix import F32, Matrix
from hearth_backends.weights.reader import Blocks, Channels, Groups, TensorReader

OUTLIER = 20.0
"""How many times the median of all inputs the largest must be to count as an outlier."""
STRENGTH = 0.5
"""Of the difficulty, the share that weights take over."""
_LEAST = 1e-5


class Inputs(NamedTuple):
    """Of one layer, a number for each input of attention, of gate and up, and of down."""

    attention: F32  # [d_model]
    mlp: F32  # [d_model]
    down: F32  # [d_ff]


class Factors(NamedTuple):
    """Of one layer, what inputs are divided by; None: nothing."""

    attention: F32 | None = None
    mlp: F32 | None = None
    down: F32 | None = None


def factors(activations: F32, weights: F32, *, always: bool) -> F32:
    """Of the largest activation and the largest weight of every input; ones where none is an outlier."""
    ones = np.ones(len(activations), np.float32)
    usual = float(np.median(activations))
    if not always and float(activations.max()) <= OUTLIER * max(usual, _LEAST):
        return ones
    seen = (activations > 0) & (weights > 0)
    shares = np.maximum(activations, _LEAST) ** STRENGTH / np.maximum(weights, _LEAST) ** (
        1 - STRENGTH
    )
    shares /= np.exp(np.log(shares[seen]).mean()) if seen.any() else 1.0
    return np.where(seen, shares, ones).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Smoothing:
    """Factors of all layers, a row for each: attention, mlp, down one behind the other; 1: left alone."""

    table: F32  # [n_layers, 2 * d_model + d_ff]
    d_model: int

    @property
    def digest(self) -> str:
        """Names it; empty where it changes nothing."""
        if (self.table == 1).all():
            return ""
        return hashlib.sha256(np.ascontiguousarray(self.table).tobytes()).hexdigest()[:16]

    def layer(self, layer: int) -> Factors:
        """Of one layer."""
        row, d = self.table[layer], self.d_model
        parts = (row[:d], row[d : 2 * d], row[2 * d :])
        return Factors(*(None if (part == 1).all() else part for part in parts))


@dataclass(frozen=True, slots=True, eq=False)
class Scaled(Matrix):
    """A matrix whose columns are multiplied by `inputs`, and whose rows are divided by `outputs`."""

    inputs: F32 | None = None  # [n_columns]
    outputs: F32 | None = None  # [n_out]
    offset: float = 0.0  # of a vector: what is added afterwards, and is divided as well

    @staticmethod
    def of(
        matrix: Matrix,
        inputs: F32 | None = None,
        outputs: F32 | None = None,
        offset: float = 0.0,
    ) -> Matrix:
        """The same one where there is nothing to do."""
        if inputs is None and outputs is None:
            return matrix
        given = {field.name: getattr(matrix, field.name) for field in fields(matrix)}
        return Scaled(**given, inputs=inputs, outputs=outputs, offset=offset)

    def read(self, reader: TensorReader) -> F32:
        """See Matrix; of a vector, rows."""
        values = Matrix.read(self, reader) + np.float32(self.offset)
        return self._scaled(values, 0) - np.float32(self.offset)

    def chunks(self, reader: TensorReader) -> Iterator[F32]:
        """See Matrix."""
        if self.column_heads is not None:
            yield self.read(reader)
            return
        at = 0
        for rows in Matrix.chunks(self, reader):
            yield self._scaled(rows, at)
            at += len(rows)

    def blocks(self, reader: TensorReader) -> Blocks | None:
        """None: they are made anew."""
        return None

    def groups(self, reader: TensorReader) -> Groups | None:
        """None: they are made anew."""
        return None

    def channels(self, reader: TensorReader) -> Channels | None:
        """As stored where columns are left alone: an output's scale takes its divisor."""
        stored = Matrix.channels(self, reader)
        if stored is None or self.inputs is not None:
            return None
        scales = stored.scales if self.outputs is None else stored.scales / self.outputs
        return Channels(stored.integers, scales)

    def _scaled(self, rows: F32, at: int) -> F32:
        if self.inputs is not None:
            rows = rows * self.inputs
        if self.outputs is not None:
            divisors = self.outputs[at : at + len(rows)]
            rows = rows / (divisors if rows.ndim == 1 else divisors[:, None])
        return rows
