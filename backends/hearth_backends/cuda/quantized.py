"""From a matrix in a file to a Linear on the device, in the kind that it is to be kept in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels.contract import Kernels
from hearth_backends.cuda.kernels.packing import int4_of
from hearth_backends.cuda.linear import EightBitLinear, FloatLinear, Int4Linear, Linear
from hearth_backends.cuda.transfer import as_tensor
from hearth_backends.errors import Unsupported
from hearth_backends.quantizing import rounding
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.reader import (
    F32,
    Blocks,
    Channels,
    Floats8,
    Groups,
    TensorReader,
    packed_pairs,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where matrices go and what multiplies by them."""

    device: Accelerator
    dtype: torch.dtype  # of activations
    kernels: Kernels

    def put(self, values: NDArray[Any], dtype: torch.dtype | None = None) -> Tensor:
        """An array on the device."""
        return as_tensor(values).to(self.device.torch, dtype)


@dataclass(frozen=True, slots=True)
class Source:
    """A matrix of a file, or only some of its inputs."""

    matrix: Matrix
    reader: TensorReader
    inputs: slice | None = None

    @property
    def columns(self) -> slice:
        return slice(0, self.matrix.n_in) if self.inputs is None else self.inputs

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.n_out, self.columns.stop - self.columns.start

    def chunks(self) -> Iterator[F32]:
        """Rows in float32, some at a time."""
        for rows in self.matrix.chunks(self.reader):
            yield rows[:, self.columns]


def make_linear(kind: str, source: Source, bias: Tensor | None, place: Place) -> Linear:
    """The matrix as a Linear of a kind; as the file stores it, where that is of the kind."""
    if kind.startswith("int4-"):
        return _int4(source, int(kind.removeprefix("int4-")), bias, place)
    if kind in ("int8", "fp8"):
        return _eight_bits(kind, source, bias, place)
    return FloatLinear(floats_of(source, place), bias)


def floats_of(source: Source, place: Place) -> Tensor:
    """The matrix in the type of activations; on the host there are some rows at a time."""
    weight = torch.empty(source.shape, dtype=place.dtype, device=place.device.torch)
    at = 0
    for rows in source.chunks():
        weight[at : at + len(rows)] = place.put(rows)
        at += len(rows)
    return weight


# --- 4 bits ------------------------------------------------------------------------------------


def _int4(source: Source, size: int, bias: Tensor | None, place: Place) -> Linear:
    groups = _stored_groups(source, size) or _made_groups(source, size)
    zeros = None if groups.zeros is None else place.put(groups.zeros)
    matrix = int4_of(place.put(groups.packed), place.put(groups.scales, place.dtype), zeros)
    return Int4Linear(matrix, bias, place.kernels)


def _stored_groups(source: Source, size: int) -> Groups | None:
    """The file's own integers, where they are in groups of that size; raises Unsupported where a cut parts one."""
    groups = source.matrix.groups(source.reader)
    if groups is None and size == Q4_0_BLOCK:
        blocks = source.matrix.blocks(source.reader)
        groups = None if blocks is None or blocks.kind != "Q4_0" else groups_of_blocks(blocks)
    if groups is None or groups.size != size:
        return None
    first, last = source.columns.start, source.columns.stop
    if first % size or last % size:
        raise Unsupported(
            f"{source.matrix.name}: a cut at input {last} goes through a group of {size}"
        )
    of_groups = slice(first // size, last // size)
    zeros = None if groups.zeros is None else np.ascontiguousarray(groups.zeros[:, of_groups])
    return Groups(
        np.ascontiguousarray(groups.packed[:, first // 2 : last // 2]),
        np.ascontiguousarray(groups.scales[:, of_groups]),
        zeros,
        size,
    )


Q4_0_BLOCK = 32
_Q4_0_BYTES = 18  # a scale in float16, then 32 halves of bytes


def groups_of_blocks(blocks: Blocks) -> Groups:
    """Blocks of Q4_0 as groups, to the bit: element i is in the low half of byte i, i + 16 in its high half."""
    parts = blocks.data.reshape(blocks.data.shape[0], -1, _Q4_0_BYTES)
    scales = np.ascontiguousarray(parts[:, :, :2]).view("<f2")[:, :, 0].astype(np.float32)
    octets = parts[:, :, 2:]
    integers = np.concatenate([octets & 15, octets >> 4], axis=2).reshape(len(parts), -1)
    return Groups(packed_pairs(integers), scales, None, Q4_0_BLOCK)


def _made_groups(source: Source, size: int) -> Groups:
    made = [rounding.int4_groups(rows, size, symmetric=True) for rows in source.chunks()]
    packed = np.concatenate([packed_pairs(part.integers) for part in made])
    return Groups(packed, np.concatenate([part.scales for part in made]), None, size)


# --- 8 bits ------------------------------------------------------------------------------------


def _eight_bits(kind: str, source: Source, bias: Tensor | None, place: Place) -> Linear:
    stored: Channels | Floats8 | None
    quantize: Callable[[F32], tuple[NDArray[Any], F32]]
    if kind == "int8":
        stored, quantize = source.matrix.channels(source.reader), rounding.int8_channels
        dtype, rounds = torch.int8, True
    else:
        stored, quantize = source.matrix.floats8(source.reader), rounding.fp8_channels
        dtype, rounds = torch.float8_e4m3fn, place.device.multiplies_fp8
    pieces: Iterable[tuple[NDArray[Any], F32]] = map(quantize, source.chunks())
    if stored is not None:
        pieces = [(stored[0][:, source.columns], stored.scales)]
    codes = torch.empty(source.shape, dtype=torch.uint8, device=place.device.torch)
    scales = torch.empty(len(codes), device=place.device.torch)
    at = 0
    for some, of_some in pieces:
        here = slice(at, at + len(some))
        codes[here], scales[here] = place.put(some.view(np.uint8)), place.put(of_some).flatten()
        at = here.stop
    return EightBitLinear(codes.view(dtype), scales, bias, place.kernels, rounds=rounds)
