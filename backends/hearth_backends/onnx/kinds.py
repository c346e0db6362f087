"""Linear kinds: how a matrix is stored, and the nodes that multiply by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hearth_backends.base import Support
from hearth_backends.errors import Unsupported
from hearth_backends.onnx import quantize
from hearth_backends.onnx.graph import MICROSOFT, Arrays, Graph, Weight
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.spec import ModelSpec

_ONE = (
    "file", "fp32", "fp16", "int8", "int8-smooth", "int8-32", "int4-32", "int4-128",
)  # fmt: skip
KINDS = (*_ONE, "int8+int4-32", "int8+int4-128")
"""Names that the configuration takes as `weights`.

file      what comes closest to the file: int4-32 for Q4_0 and int8-32 for Q8_0, int4-32 and int4-128
          for 4-bit groups of checkpoints, with their zero points, int8-32 for their 8-bit integers, all
          to the bit; fp32 for F32, F16 and BF16, but int8-32 for such a head of a model that is otherwise
          quantized (it would take longer than all layers); int8-32 for every other type
fp32      float32, the reference
fp16      float16 throughout
int8      8 bits with one scale for each output; activations in 8 bits with one scale for each row, smoothed
          where a few inputs are far larger than the others
int8-smooth  the same, and all inputs are smoothed
int8-32   8 bits in blocks of 32
int4-32   4 bits in blocks of 32
int4-128  4 bits in blocks of 128
A+B       two sets of weights, prompts being computed with A and decoding with B, for any two of these
"""

_GROUPED: Mapping[frozenset[str], str] = {
    frozenset({"INT4-32"}): "int4-32",
    frozenset({"INT4-64"}): "int4-32",
    frozenset({"INT4-128"}): "int4-128",
    frozenset({"UINT4-32"}): "uint4-32",
    frozenset({"UINT4-64"}): "uint4-32",
    frozenset({"UINT4-128"}): "uint4-128",
}
"""What 4-bit groups of a checkpoint are taken over as; a group of 64 as two blocks of 32."""
_PLAIN_TYPES = frozenset({"F32", "F16", "BF16", "F64"})


def support(kind: str) -> Support:
    """Whether there is such a kind."""
    parts = phases(kind)
    if len(parts) > 2 or not all(part in _ONE for part in parts):
        return Support(
            False, f"it knows no weights of the kind {kind!r}; it knows {', '.join(KINDS)}"
        )
    if len(parts) == 2 and "fp16" in parts:
        return Support(False, "fp16 shares keys and values with no other kind of weights")
    return Support(True)


def phases(kind: str) -> tuple[str, ...]:
    """The kinds of the sets of weights that a stage holds: of prompts first; mostly one for all."""
    return tuple(kind.split("+"))


def kind_of(kind: str, matrix: Matrix, model: ModelSpec) -> str:
    """What "file" comes to for one matrix; every other kind is the same for all."""
    if kind != "file":
        return kind
    tensors = [model.tensors[part.tensor] for part in matrix.parts]
    types = {tensor.dtype for tensor in tensors}
    if types <= _PLAIN_TYPES:
        is_outer = all(tensor.layer is None for tensor in tensors)
        return "int8-32" if is_outer and model.quantization not in _PLAIN_TYPES else "fp32"
    if types == {"Q4_0"}:
        return "int4-32"
    return _GROUPED.get(frozenset(types), "int8-32")


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor [rows, n] of the graph; where `row_scale` is given, still to be multiplied by it [rows, 1]."""

    name: str
    row_scale: str | None = None


def settled(graph: Graph, value: Value) -> str:
    """The value with nothing left to multiply."""
    if value.row_scale is None:
        return value.name
    return graph.node("Mul", [value.name, value.row_scale])


class Linear(ABC):
    """One kind, within one graph."""

    @abstractmethod
    def emit(self, graph: Graph, x: Value, matrix: Matrix, bias: Matrix | None = None) -> Value:
        """x [rows, n_columns] times the matrix, plus a bias [n_out]."""


def make_linear(kind: str, rows: str) -> Linear:
    """The kind of that name for values of so many rows (a dimension's name); raises Unsupported."""
    if kind in ("fp32", "fp16"):
        return FloatLinear()
    if kind in ("int8", ALWAYS_SMOOTHED):
        return RowQuantizedLinear(rows)
    if kind in _BLOCKS:
        return BlockLinear(*_BLOCKS[kind])
    raise Unsupported(support(kind).reason or f"{kind!r} stands for several kinds")


ALWAYS_SMOOTHED = "int8-smooth"
SMOOTHED = ("int8", "int8-32", "int4-32", "int4-128", ALWAYS_SMOOTHED)
"""Kinds that outliers among activations would spoil, and that are made here: a file's own integers are kept."""
_BLOCKS = {
    "int8-32": (8, 32, False),
    "int4-32": (4, 32, False),
    "int4-128": (4, 128, False),
    "uint4-32": (4, 32, True),
    "uint4-128": (4, 128, True),
}
"""Bits, block, and whether each block has a zero point; those with one are only taken over."""


def emit_vector(graph: Graph, vector: Matrix, offset: float = 0.0) -> str:
    """A bias or the weights of a norm, as an initializer."""

    def make(reader: TensorReader) -> Arrays:
        return ((vector.read(reader) + np.float32(offset)).astype(graph.float_type),)

    return graph.bundle(make, Weight(vector.name, graph.float_type, (vector.n_out,)))[0]


class FloatLinear(Linear):
    """Floating point numbers of the graph's own type."""

    def emit(self, graph: Graph, x: Value, matrix: Matrix, bias: Matrix | None = None) -> Value:
        """See Linear."""
        kind = graph.float_type

        def make(reader: TensorReader) -> Arrays:
            return (np.ascontiguousarray(matrix.read(reader).astype(kind).T),)

        shape = (matrix.n_columns, matrix.n_out)
        (weight,) = graph.bundle(make, Weight(matrix.name, kind, shape))
        y = graph.node("MatMul", [settled(graph, x), weight])
        if bias is not None:
            y = graph.node("Add", [y, emit_vector(graph, bias)])
        return Value(y)


class BlockLinear(Linear):
    """Blocks of integers along the input, each with a scale; activations are quantized by the kernel."""

    def __init__(self, bits: int, block: int, has_zeros: bool) -> None:
        self._bits = bits
        self._block = block
        self._has_zeros = has_zeros

    def emit(self, graph: Graph, x: Value, matrix: Matrix, bias: Matrix | None = None) -> Value:
        """See Linear."""
        inputs = [settled(graph, x), *self._weights(graph, matrix)]
        if bias is not None:
            inputs += [""] * (5 - len(inputs)) + [emit_vector(graph, bias)]
        return Value(
            graph.node(
                "MatMulNBits",
                inputs,
                domain=MICROSOFT,
                K=matrix.n_columns,
                N=matrix.n_out,
                bits=self._bits,
                block_size=self._block,
                accuracy_level=INT8_ACTIVATIONS,
            )
        )

    def _weights(self, graph: Graph, matrix: Matrix) -> list[str]:
        n_blocks = -(-matrix.n_columns // self._block)
        octets = np.dtype(np.uint8)
        of_block = self._block * self._bits // 8
        weights = [
            Weight(f"{matrix.name}.q{self._bits}", octets, (matrix.n_out, n_blocks, of_block)),
            Weight(f"{matrix.name}.scales", np.dtype(np.float32), (matrix.n_out, n_blocks)),
        ]
        if self._has_zeros:
            shape = (matrix.n_out, -(-n_blocks // 2))
            weights.append(Weight(f"{matrix.name}.zeros", octets, shape))
        return list(graph.bundle(lambda reader: self._make(reader, matrix), *weights))

    def _make(self, reader: TensorReader, matrix: Matrix) -> Arrays:
        if self._bits == 4:
            return self._make_int4(reader, matrix)
        stored = matrix.blocks(reader)
        if stored is not None and stored.kind == "Q8_0":
            return quantize.int8_from_q8_0(stored)
        channels = matrix.channels(reader)
        if channels is not None:
            return quantize.int8_from_channels(channels, self._block)
        return quantize.int8_blocks(matrix.chunks(reader), self._block)

    def _make_int4(self, reader: TensorReader, matrix: Matrix) -> Arrays:
        """As it is stored, where that fits; else made anew, around 8."""
        groups = matrix.groups(reader)
        fits = groups is not None and (groups.zeros is None or self._has_zeros)
        if groups is not None and fits and groups.size % self._block == 0:
            made = quantize.int4_from_groups(groups, self._block)
            return made if self._has_zeros else made[:2]
        stored = matrix.blocks(reader) if self._block == 32 else None
        if stored is not None and stored.kind == "Q4_0":
            return quantize.int4_from_q4_0(stored)
        packed, scales = quantize.int4_blocks(matrix.chunks(reader), self._block)
        if not self._has_zeros:
            return packed, scales
        return packed, scales, quantize.packed_zeros(np.full(scales.shape, 8, np.uint8))


def _int8_channels(reader: TensorReader, matrix: Matrix) -> Arrays:
    stored = matrix.channels(reader)
    if stored is not None:
        return np.ascontiguousarray(stored.integers.T), stored.scales
    return quantize.int8_channels(matrix.chunks(reader))


INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level: products of 8-bit integers."""


ZEROS = "zeros_of_"
"""Begins the name of an input [rows] that is 128 throughout; the dimension's name follows."""


class RowQuantizedLinear(Linear):
    """8-bit weights with a scale for each output, 8-bit activations with a scale for each row.

    A row's scale is the row's own, so that what it becomes does not depend on its neighbours. Activations
    are unsigned around 128: ONNX Runtime's kernels for signed ones are many times slower.
    """

    def __init__(self, rows: str) -> None:
        self._rows = rows
        self._quantized: dict[str, tuple[str, str]] = {}  # by value: integers, row scales

    def emit(self, graph: Graph, x: Value, matrix: Matrix, bias: Matrix | None = None) -> Value:
        """See Linear; the row's scale is left to be multiplied, unless there is a bias."""
        integers, scale = self._quantize(graph, x.name)
        weight, column_scales = graph.bundle(
            lambda reader: _int8_channels(reader, matrix),
            Weight(f"{matrix.name}.q8", np.dtype(np.int8), (matrix.n_columns, matrix.n_out)),
            Weight(f"{matrix.name}.scales", np.dtype(np.float32), (matrix.n_out,)),
        )
        y = graph.node(
            "MatMulIntegerToFloat",
            [
                integers,
                weight,
                graph.constant("one", 1.0, np.float32),
                column_scales,
                graph.constant("zero_128", 128, np.uint8),
                graph.constant(f"zeros_{matrix.n_out}", np.zeros(matrix.n_out), np.int8),
            ],
            domain=MICROSOFT,
        )
        if x.row_scale is not None:
            scale = graph.node("Mul", [scale, x.row_scale])
        if bias is None:
            return Value(y, scale)
        y = graph.node("Mul", [y, scale])
        return Value(graph.node("Add", [y, emit_vector(graph, bias)]))

    def _quantize(self, graph: Graph, x: str) -> tuple[str, str]:
        """Rows as integers, and their scales [rows, 1]; once for every value."""
        if x in self._quantized:
            return self._quantized[x]
        last_axis = graph.constant("last_axis", [-1], np.int64)
        peak = graph.node("ReduceMax", [graph.node("Abs", [x]), last_axis], keepdims=1)
        scale = graph.node("Mul", [peak, graph.constant("one_127th", 1 / 127, np.float32)])
        scale = graph.node("Max", [scale, graph.constant("tiny", 1e-12, np.float32)])
        flat = graph.node("Reshape", [scale, last_axis])
        zeros = graph.input(ZEROS + self._rows, np.uint8, (self._rows,))
        integers = graph.node("QuantizeLinear", [x, flat, zeros], axis=0)
        self._quantized[x] = (integers, scale)
        return integers, scale
