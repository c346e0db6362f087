"""QuantizedMatrix: one matrix that a checkpoint keeps as integers (or 8-bit floats) with scales.

A number is (integer - zero point) * scale. Shapes as stored, of a matrix [n_out, n_in]:

awq     qweight [n_in, n_out / 8], qzeros [groups, n_out / 8], scales [groups, n_out]; eight outputs to
        a word, in the order 0 2 4 6 1 3 5 7
gptq    qweight [n_in / 8, n_out], eight inputs to a word; qzeros as above, but in order; g_idx [n_in]
packed  weight_packed [n_out, n_in / 8], weight_scale [n_out, groups], weight_zero_point
        [n_out / 8, groups]; integers from -8 are stored as from 0
int8,   weight [n_out, n_in], weight_scale of each output or of all
fp8
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.quantization_config import Layout, Scheme
from hearth_backends.weights.reader import F32, Channels, Floats8, Groups, packed_pairs
from hearth_backends.weights.safetensors_file import Listed, SafetensorsFile

U8 = NDArray[np.uint8]
Held = Mapping[str, tuple[SafetensorsFile, Listed]]

MIDDLE = 8
"""The zero point of symmetric 4-bit integers."""

_PIECES: Mapping[Layout, tuple[str, ...]] = {
    "awq": ("qweight", "qzeros", "scales"),
    "gptq": ("qweight", "qzeros", "scales"),
    "packed": ("weight_packed", "weight_scale"),
    "int8": ("weight", "weight_scale"),
    "fp8": ("weight", "weight_scale"),
}
_OPTIONAL: Mapping[Layout, tuple[str, ...]] = {
    "awq": (),
    "gptq": ("g_idx",),
    "packed": ("weight_shape", "weight_zero_point", "weight_g_idx"),
    "int8": ("weight_zero_point",),
    "fp8": (),
}
_OF_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "output_zero_point")
"""Left aside: no backend rounds activations by them."""
_WORDS_TYPES: Mapping[Layout, str] = {
    "awq": "I32", "gptq": "I32", "packed": "I32", "int8": "I8", "fp8": "F8_E4M3",
}  # fmt: skip
_AWQ_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Of each of eight neighbours, where in the word it is."""


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """Pieces by name, within files that stay mapped."""

    name: str  # canonical, "model.layers.0.mlp.up_proj.weight"
    scheme: Scheme
    pieces: Held
    shape: tuple[int, int]

    @property
    def n_bytes(self) -> int:
        return sum(listed.end - listed.begin for _, listed in self.pieces.values())

    def read(self, rows: NDArray[np.int32] | None = None) -> F32:
        """[n_out, n_in] or rows of it in float32; raises ModelFileError, Unsupported."""
        at = np.arange(self.shape[0]) if rows is None else rows.astype(np.int64)
        if self.scheme.group is None:
            return self._channels(at)
        integers = self._integers(at)
        n_groups = self.shape[1] // self.scheme.group
        zeros = np.uint8(MIDDLE) if (found := self._zeros(at)) is None else found[:, :, None]
        numbers = integers.reshape(len(at), n_groups, self.scheme.group).astype(np.float32)
        numbers -= zeros
        numbers *= self._scales(at)[:, :, None]
        return numbers.reshape(len(at), self.shape[1])

    def groups(self) -> Groups | None:
        """The 4-bit integers as they are; None of 8-bit numbers; raises as `read`."""
        if self.scheme.group is None:
            return None
        every = np.arange(self.shape[0])
        integers = self._integers(every)
        packed = packed_pairs(integers)
        return Groups(packed, self._scales(every), self._zeros(every), self.scheme.group)

    def channels(self) -> Channels | None:
        """The 8-bit integers as they are; None of others, and where they have zero points."""
        if self.scheme.layout != "int8" or not self.scheme.symmetric:
            return None
        return Channels(self._raw("weight"), self._output_scales())

    def floats8(self) -> Floats8 | None:
        """The 8-bit floats as they are; None of others."""
        if self.scheme.layout != "fp8":
            return None
        return Floats8(self._raw("weight"), self._output_scales())

    def _output_scales(self) -> F32:
        scales = _of_outputs(self._float("weight_scale"), np.arange(self.shape[0]))[:, 0]
        return np.broadcast_to(scales, self.shape[:1])

    def _raw(self, piece: str) -> NDArray[Any]:
        file, listed = self.pieces[piece]
        return file.raw(listed.name)

    def _float(self, piece: str) -> F32:
        file, listed = self.pieces[piece]
        return file.tensor(listed.name)

    def _integers(self, at: NDArray[np.int64]) -> U8:
        """[n, n_in], 0 to 15."""
        if self.scheme.layout == "packed":
            return _nibbles(self._raw("weight_packed")[at])
        if self.scheme.layout == "awq":
            return _outputs(self._raw("qweight"), at, _AWQ_PLACES).T
        self._check_order()
        return _nibbles(np.ascontiguousarray(self._raw("qweight")[:, at].T))

    def _scales(self, at: NDArray[np.int64]) -> F32:
        """[n, groups]"""
        if self.scheme.layout == "packed":
            return self._float("weight_scale")[at]
        return np.ascontiguousarray(self._float("scales")[:, at].T)

    def _zeros(self, at: NDArray[np.int64]) -> U8 | None:
        """[n, groups]; None where they are MIDDLE throughout."""
        if self.scheme.layout == "packed":
            return None if self.scheme.symmetric else self._packed_zeros(at)
        if self.scheme.layout == "awq":
            return np.ascontiguousarray(_outputs(self._raw("qzeros"), at, _AWQ_PLACES).T)
        zeros = np.ascontiguousarray(_outputs(self._raw("qzeros"), at, np.arange(8)).T)
        if self.scheme.symmetric:
            self._check_middle(zeros)
            return None
        if self.scheme.zero_offset and (zeros == 15).any():
            raise Unsupported(
                f"{self.name}: a zero point stored as 15 in the format 'gptq' is 16 to some and 0 to others"
            )
        return zeros + np.uint8(self.scheme.zero_offset)

    def _packed_zeros(self, at: NDArray[np.int64]) -> U8:
        zeros = self._raw("weight_zero_point")
        if self.pieces["weight_zero_point"][1].dtype == "I8":  # how they were written at first
            return (zeros[at] + np.int8(MIDDLE)).astype(np.uint8)
        return np.ascontiguousarray(_outputs(zeros.T, at, np.arange(8)).T)

    def _check_middle(self, zeros: U8) -> None:
        """Either way of storing 8 is taken: there are checkpoints that name one and use the other."""
        if not ((zeros == MIDDLE - 1).all() or (zeros == MIDDLE).all()):
            raise ModelFileError(f"{self.name}: zero points other than 8, and config.json says sym")

    def _check_order(self) -> None:
        if "g_idx" not in self.pieces:
            return
        in_order = np.arange(self.shape[1]) // (self.scheme.group or 1)
        if not np.array_equal(self._raw("g_idx"), in_order):
            raise Unsupported(
                f"{self.name}: its groups are scattered over the inputs (act-order), which is not read"
            )

    def _channels(self, at: NDArray[np.int64]) -> F32:
        stored = self._raw("weight")[at]
        is_float = self.scheme.layout == "fp8"
        numbers: F32 = _e4m3()[stored] if is_float else stored.astype(np.float32)
        if "weight_zero_point" in self.pieces and not self.scheme.symmetric:
            numbers -= _of_outputs(self._raw("weight_zero_point").astype(np.float32), at)
        numbers *= _of_outputs(self._float("weight_scale"), at)
        return numbers


def collect(held: Held, scheme: Scheme) -> tuple[Held, Mapping[str, QuantizedMatrix]]:
    """Tensors that are whole numbers of a matrix by themselves, and matrices put together of pieces.

    Raises ModelFileError for pieces that are missing or of a shape or type that does not fit.
    """
    needed, optional = _PIECES[scheme.layout], _OPTIONAL[scheme.layout]
    marks = set(needed + optional) - {"weight"}  # a plain matrix has a weight, too
    stems = {stem for stem, _, end in map(_cut, held) if end in marks}
    plain, pieces = {}, dict[str, dict[str, tuple[SafetensorsFile, Listed]]]()
    for name, place in held.items():
        stem, _, end = _cut(name)
        if stem in stems and end in (*needed, *optional):
            pieces.setdefault(stem, {})[end] = place
        elif end not in _OF_ACTIVATIONS:
            plain[name] = place
    return plain, {f"{stem}.weight": _matrix(stem, found, scheme) for stem, found in pieces.items()}


def _cut(name: str) -> tuple[str, str, str]:
    return name.rpartition(".")


def _matrix(stem: str, pieces: Held, scheme: Scheme) -> QuantizedMatrix:
    needed = list(_PIECES[scheme.layout])
    if scheme.layout in ("packed", "int8") and not scheme.symmetric:
        needed.append("weight_zero_point")
    for piece in needed:
        if piece not in pieces:
            raise ModelFileError(f"there is no tensor {stem}.{piece}")
    if "weight_g_idx" in pieces:
        raise Unsupported(f"{stem}: its groups are scattered over the inputs, which is not read")
    words = pieces[needed[0]][1]
    if words.dtype != _WORDS_TYPES[scheme.layout] or len(words.shape) != 2:
        raise ModelFileError(f"{stem}.{needed[0]} is {words.dtype} {words.shape}")
    first, second = words.shape
    n_out, n_in = {
        "awq": (second * 8, first), "gptq": (second, first * 8), "packed": (first, second * 8),
    }.get(scheme.layout, (first, second))  # fmt: skip
    if scheme.group is not None and n_in % scheme.group:
        raise Unsupported(f"{stem}: {n_in} inputs are not whole groups of {scheme.group}")
    matrix = QuantizedMatrix(f"{stem}.weight", scheme, pieces, (n_out, n_in))
    for piece, shapes in _shapes(matrix).items():
        if piece in pieces and pieces[piece][1].shape not in shapes:
            raise ModelFileError(
                f"{stem}.{piece} has the shape {pieces[piece][1].shape}, where {shapes[0]} belongs"
            )
    _check_types(stem, matrix)
    return matrix


def _shapes(matrix: QuantizedMatrix) -> Mapping[str, tuple[tuple[int, ...], ...]]:
    """What each piece beside the integers may be."""
    n_out, n_in = matrix.shape
    if matrix.scheme.group is None:
        outputs = ((n_out, 1), (n_out,), (1,), ())
        return {"weight_scale": outputs, "weight_zero_point": outputs}
    n_groups = n_in // matrix.scheme.group
    zeros = matrix.pieces.get("weight_zero_point")
    is_plain = zeros is not None and zeros[1].dtype == "I8"
    return {
        "qzeros": ((n_groups, -(-n_out // 8)),),
        "scales": ((n_groups, n_out),),
        "g_idx": ((n_in,),),
        "weight_scale": ((n_out, n_groups),),
        "weight_zero_point": ((n_out if is_plain else -(-n_out // 8), n_groups),),
    }


def _check_types(stem: str, matrix: QuantizedMatrix) -> None:
    zeros = ("I32", "I8") if matrix.scheme.layout == "packed" else ("I8",)
    floats = ("F16", "BF16", "F32")
    known = {
        "qzeros": ("I32",), "g_idx": ("I32",), "scales": floats, "weight_scale": floats,
        "weight_zero_point": zeros,
    }  # fmt: skip
    for piece, types in known.items():
        if piece in matrix.pieces and matrix.pieces[piece][1].dtype not in types:
            raise ModelFileError(
                f"{stem}.{piece} is of type {matrix.pieces[piece][1].dtype}, not {' or '.join(types)}"
            )


def _nibbles(words: NDArray[np.int32]) -> U8:
    """[n, m] words to [n, 8 * m], each word's lowest four bits first."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    nibbles = np.empty((*octets.shape, 2), np.uint8)
    nibbles[..., 0] = octets & 15
    nibbles[..., 1] = octets >> 4
    return nibbles.reshape(len(octets), 2 * octets.shape[1])


def _outputs(words: NDArray[np.int32], at: NDArray[np.int64], places: NDArray[np.int64]) -> U8:
    """Of [n, outputs / 8] words the outputs `at`, [n, len(at)]; eight to a word, at those places."""
    first, last = (int(at.min()) // 8, int(at.max()) // 8 + 1) if len(at) else (0, 0)
    nibbles = _nibbles(words[:, first:last]) if last else np.zeros((len(words), 0), np.uint8)
    return nibbles[:, (at // 8 - first) * 8 + places[at % 8]]


def _of_outputs(values: F32, at: NDArray[np.int64]) -> F32:
    """[n, 1], or [1, 1] where there is one for all."""
    return values.reshape(1, 1) if values.size == 1 else values.reshape(-1, 1)[at]


@cache
def _e4m3() -> F32:
    """All numbers of 8-bit floats: a sign, 4 bits of exponent, 3 of fraction; no infinities."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, (codes & 7) / 8
    size = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7.0))
    size[codes & 127 == 127] = np.nan
    return np.where(codes & 128, -size, size).astype(np.float32)
