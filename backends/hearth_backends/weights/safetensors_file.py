"""A safetensors file, mapped into memory: what its header lists, parsed without trusting a byte of it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearth_backends.errors import ModelFileError, Unsupported

LONGEST_HEADER = 100 << 20
_LENGTH = struct.Struct("<Q")

_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # its upper half is a float32's
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class Listed:
    """One tensor as the header lists it."""

    name: str
    dtype: str  # "F32", "BF16", ...
    shape: tuple[int, ...]
    begin: int  # from the beginning of the file
    end: int


class SafetensorsFile:
    """One open file; the map lives as long as it, or any array that `raw` gave out."""

    def __init__(self, path: Path) -> None:
        """Map the file and read its header; raises ModelFileError, naming the file."""
        self.path = path
        try:
            self._bytes: NDArray[np.uint8] = np.asarray(np.memmap(path, np.uint8, "r"))
            self.header, self.tensors = _parse(self._bytes)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
        except FileNotFoundError:
            raise ModelFileError(f"{path}: there is no such file") from None
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{path}: it cannot be read: {error}") from error

    @property
    def n_bytes(self) -> int:
        return int(self._bytes.size)

    def piece(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Bytes of the file; a view."""
        return self._bytes[begin:end]

    def raw(self, name: str) -> NDArray[Any]:
        """The tensor as stored (bf16 as its 16 bits); a view into the file."""
        listed = self.tensors[name]
        data = self._bytes[listed.begin : listed.end]
        return data.view(_TYPES[listed.dtype]).reshape(listed.shape)

    def tensor(self, name: str, rows: Any = ...) -> NDArray[np.float32]:
        """The tensor, or rows of it, as float32; raises Unsupported for integers."""
        dtype = self.tensors[name].dtype
        if dtype not in _FLOATS:
            raise Unsupported(f"{self.path}: {name} is of type {dtype}, which is not read")
        values = np.asarray(self.raw(name)[rows])
        if dtype == "BF16":
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.asarray(values, np.float32)


def _parse(data: NDArray[np.uint8]) -> tuple[bytes, Mapping[str, Listed]]:
    """The header's bytes, and the tensors by name."""
    if data.size < _LENGTH.size:
        raise ModelFileError(f"not a safetensors file: it has {data.size} bytes")
    (n_header,) = _LENGTH.unpack(data[: _LENGTH.size].tobytes())
    begin = _LENGTH.size + n_header
    if n_header > LONGEST_HEADER or begin > data.size:
        raise ModelFileError(
            f"truncated or corrupt: a header of {n_header} bytes, and the file has {data.size}"
        )
    header = data[_LENGTH.size : begin].tobytes()
    try:
        entries = json.loads(header)
    except ValueError as error:
        raise ModelFileError(f"corrupt header: {error}") from None
    if not isinstance(entries, dict):
        raise ModelFileError("corrupt header: it is no table")
    entries.pop("__metadata__", None)
    tensors = {name: _listed(name, entry, begin) for name, entry in entries.items()}
    end = max((tensor.end for tensor in tensors.values()), default=begin)
    if end > data.size:
        raise ModelFileError(f"truncated: it has {data.size} bytes, and {end} belong")
    return header, tensors


def _listed(name: str, entry: Any, data_begin: int) -> Listed:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ModelFileError(f"corrupt header: {name!r:.80} lacks type, shape or place") from None
    numbers = (*shape, begin, end)
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise ModelFileError(f"corrupt header: {name!r:.80} has a shape or place without sense")
    if dtype not in _TYPES:
        raise Unsupported(f"{name!r:.80} is of the unknown type {dtype!r:.20}")
    if end - begin != math.prod(shape) * _TYPES[dtype].itemsize:
        raise ModelFileError(f"corrupt header: {name!r:.80} has {end - begin} bytes for {shape}")
    return Listed(name, dtype, shape, data_begin + begin, data_begin + end)
