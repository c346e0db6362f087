"""The header of a GGUF file: metadata and tensor infos, parsed without trusting a byte of it.

Written here because `gguf.GGUFReader` takes seconds for a vocabulary of 150,000 (one NumPy array for
every string) and meets a corrupt file with whatever exception comes first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from hearth_backends.errors import ModelFileError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LONGEST_KEY = 65535
LONGEST_TENSOR_NAME = 63
MOST_DIMENSIONS = 4
LARGEST_TENSOR_BYTES = 1 << 50

_SCALARS = {
    GGUFValueType.UINT8: "<u1", GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2", GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4", GGUFValueType.INT32: "<i4",
    GGUFValueType.UINT64: "<u8", GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4", GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}  # fmt: skip
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_LEAST_KV_BYTES = 8 + 1 + 4 + 1  # key length, key, type, value
_LEAST_TENSOR_BYTES = (
    8 + 1 + 4 + 8 + 4 + 8
)  # name length, name, dimensions, one of them, type, offset


class StringArray:
    """An array of strings, decoded when it is read: most readers want its length only."""

    __slots__ = ("_buffer", "_n", "_start")

    def __init__(self, buffer: memoryview, start: int, n: int) -> None:
        self._buffer = buffer
        self._start = start
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[bytes]:
        at = self._start
        for _ in range(self._n):
            (length,) = _U64.unpack_from(self._buffer, at)
            at += 8
            yield bytes(self._buffer[at : at + length])
            at += length


Value: TypeAlias = "bool | int | float | str | NDArray[Any] | StringArray"


@dataclass(frozen=True, slots=True)
class Entry:
    """One metadata value and its type; `of` is the type of an array's elements."""

    value: Value
    type: GGUFValueType
    of: GGUFValueType | None = None


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as the file lists it."""

    name: str
    shape: tuple[int, ...]  # row-major: the file's order reversed
    type: GGMLQuantizationType
    offset: int  # from the beginning of the file
    n_bytes: int

    @property
    def n_elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the tensors' data; `data_offset` is where that begins."""

    version: int
    metadata: Mapping[str, Entry]
    tensors: tuple[StoredTensor, ...]
    data_offset: int


def parse_header(buffer: memoryview) -> Header:
    """Parse the beginning of `buffer`, which is the whole file; raises ModelFileError with a reason.

    What it allocates is bounded by the size of the file, whatever counts the header claims.
    """
    reader = _Reader(buffer)
    version = _parse_version(reader)
    n_tensors = reader.count("tensors", _LEAST_TENSOR_BYTES)
    n_entries = reader.count("metadata values", _LEAST_KV_BYTES)
    metadata: dict[str, Entry] = {}
    for _ in range(n_entries):
        key = reader.text("a metadata key", LONGEST_KEY)
        if key in metadata:
            raise ModelFileError(f"corrupt header: the key {key!r} comes twice")
        metadata[key] = _parse_entry(reader, key)
    alignment = _alignment(metadata)
    listed = [_parse_tensor(reader) for _ in range(n_tensors)]
    data_offset = -(-reader.at // alignment) * alignment
    tensors = _place(listed, data_offset, alignment)
    _check_complete(tensors, len(buffer))
    return Header(version, metadata, tensors, data_offset)


class _Reader:
    """A position in the file that never passes its end."""

    __slots__ = ("at", "buffer")

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.at = 0

    def take(self, n_bytes: int, what: str) -> int:
        """Step over bytes and return where they began."""
        start = self.at
        if n_bytes > len(self.buffer) - start:
            raise ModelFileError(
                f"truncated or corrupt: {what} at byte {start} needs {n_bytes} bytes, "
                f"and the file has {len(self.buffer)}"
            )
        self.at = start + n_bytes
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.buffer, self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.buffer, self.take(8, what))[0])

    def count(self, what: str, least_bytes: int) -> int:
        """A number of things that take at least so many bytes each; absurd ones end here."""
        n = self.u64(f"the number of {what}")
        if n * least_bytes > len(self.buffer) - self.at:
            raise ModelFileError(
                f"truncated or corrupt: it claims {n} {what}, and the file has {len(self.buffer)} bytes"
            )
        return n

    def text(self, what: str, longest: int) -> str:
        """A string of UTF-8."""
        n_bytes = self.u64(f"the length of {what}")
        if n_bytes > longest:
            raise ModelFileError(f"corrupt header: {what} of {n_bytes} bytes at byte {self.at}")
        start = self.take(n_bytes, what)
        try:
            return str(self.buffer[start : start + n_bytes], "utf-8")
        except UnicodeDecodeError:
            raise ModelFileError(f"corrupt header: {what} at byte {start} is not UTF-8") from None


def _parse_version(reader: _Reader) -> int:
    size = len(reader.buffer)
    if size < len(MAGIC):
        raise ModelFileError(f"not a GGUF file: it has {size} bytes")
    found = bytes(reader.buffer[: reader.take(4, "the magic") + 4])
    if found != MAGIC:
        raise ModelFileError(f"not a GGUF file: it begins with {found!r}")
    version = reader.u32("the version")
    if version in VERSIONS:
        return version
    if version & 0xFFFF == 0:
        raise ModelFileError("a big-endian GGUF file; only little-endian ones are read")
    raise ModelFileError(f"GGUF version {version} is not read; versions {VERSIONS} are")


def _parse_entry(reader: _Reader, key: str) -> Entry:
    kind = _value_type(reader.u32(f"the type of {key}"), key)
    if kind is not GGUFValueType.ARRAY:
        return Entry(_parse_value(reader, kind, key), kind)
    of = _value_type(reader.u32(f"the element type of {key}"), key)
    if of is GGUFValueType.ARRAY:
        raise ModelFileError(f"corrupt header: {key} is an array of arrays")
    if of is GGUFValueType.STRING:
        return Entry(_parse_strings(reader, key), kind, of)
    dtype = np.dtype(_SCALARS[of])
    n = reader.count(f"elements of {key}", dtype.itemsize)
    start = reader.take(n * dtype.itemsize, key)
    return Entry(np.frombuffer(reader.buffer, dtype, n, start), kind, of)


def _value_type(number: int, key: str) -> GGUFValueType:
    try:
        return GGUFValueType(number)
    except ValueError:
        raise ModelFileError(f"corrupt header: {key} has the unknown type {number}") from None


def _parse_value(reader: _Reader, kind: GGUFValueType, key: str) -> bool | int | float | str:
    if kind is GGUFValueType.STRING:
        return reader.text(f"the value of {key}", len(reader.buffer))
    dtype = np.dtype(_SCALARS[kind])
    start = reader.take(dtype.itemsize, key)
    if kind is GGUFValueType.BOOL:
        return reader.buffer[start] != 0
    value: int | float = np.frombuffer(reader.buffer, dtype, 1, start)[0].item()
    return value


def _parse_strings(reader: _Reader, key: str) -> StringArray:
    """Step over an array of strings; the loop is the cost of opening a file with a large vocabulary."""
    n = reader.count(f"strings of {key}", 8)
    buffer, size = reader.buffer, len(reader.buffer)
    start = at = reader.at
    unpack = _U64.unpack_from
    for i in range(n):
        if at + 8 > size:
            raise ModelFileError(f"truncated or corrupt: string {i} of {key} begins beyond the end")
        at += 8 + unpack(buffer, at)[0]
    reader.take(at - start, key)
    return StringArray(buffer, start, n)


def _alignment(metadata: Mapping[str, Entry]) -> int:
    entry = metadata.get("general.alignment")
    if entry is None:
        return 32
    value = entry.value
    if entry.type is not GGUFValueType.UINT32 or not isinstance(value, int):
        raise ModelFileError("corrupt header: general.alignment is not a 32-bit number")
    if value < 1 or value & (value - 1):
        raise ModelFileError(f"corrupt header: general.alignment = {value} is no power of two")
    return value


def _parse_tensor(reader: _Reader) -> StoredTensor:
    """One tensor's listing; its offset is still relative to the data."""
    name = reader.text("a tensor's name", LONGEST_TENSOR_NAME)
    n_dims = reader.u32(f"the dimensions of {name}")
    if not 1 <= n_dims <= MOST_DIMENSIONS:
        raise ModelFileError(f"corrupt header: tensor {name!r} has {n_dims} dimensions")
    shape = tuple(reader.u64(f"a dimension of {name}") for _ in range(n_dims))[::-1]
    number = reader.u32(f"the type of {name}")
    try:
        kind = GGMLQuantizationType(number)
        block, block_bytes = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise ModelFileError(f"tensor {name!r} has the unknown type {number}") from None
    n_elements = 1
    for length in shape:
        n_elements *= length
    n_bytes = n_elements // block * block_bytes
    if n_elements == 0 or shape[-1] % block or n_bytes > LARGEST_TENSOR_BYTES:
        raise ModelFileError(
            f"corrupt header: tensor {name!r} cannot be {kind.name} of shape {shape}"
        )
    return StoredTensor(name, shape, kind, reader.u64(f"the offset of {name}"), n_bytes)


def _place(
    listed: list[StoredTensor], data_offset: int, alignment: int
) -> tuple[StoredTensor, ...]:
    """Tensors with offsets from the file's beginning; they must lie one after another, as listed."""
    placed: list[StoredTensor] = []
    seen: set[str] = set()
    expected = 0
    for tensor in listed:
        if tensor.name in seen:
            raise ModelFileError(f"corrupt header: the tensor {tensor.name!r} comes twice")
        if tensor.offset != expected:
            raise ModelFileError(
                f"corrupt header: tensor {tensor.name!r} lies at {tensor.offset}, not at {expected}"
            )
        seen.add(tensor.name)
        expected += -(-tensor.n_bytes // alignment) * alignment
        placed.append(
            StoredTensor(
                tensor.name, tensor.shape, tensor.type, data_offset + tensor.offset, tensor.n_bytes
            )
        )
    return tuple(placed)


def _check_complete(tensors: tuple[StoredTensor, ...], size: int) -> None:
    if not tensors:
        raise ModelFileError("it holds no tensors")
    needed = tensors[-1].offset + tensors[-1].n_bytes
    if needed > size:
        raise ModelFileError(f"truncated: {needed} bytes are needed and {size} are there")
