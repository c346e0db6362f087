"""A GGUF file, mapped into memory: its ModelSpec, and its tensors by canonical name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quant_shape_to_byte_shape
from numpy.typing import NDArray

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.gguf_header import Header, StoredTensor, parse_header
from hearth_backends.weights.gguf_names import CANONICAL, Layout
from hearth_backends.weights.gguf_spec import spec_from_header
from hearth_backends.weights.spec import ModelSpec, TensorInfo

T = TypeVar("T", bound=np.generic)

SAMPLE_BYTES = 64 * 1024
"""Of every tensor, as much as this goes into the digest."""
SAMPLE_PIECES = 4

PLAIN_TYPES: dict[GGMLQuantizationType, np.dtype[Any]] = {
    GGMLQuantizationType.F32: np.dtype("<f4"),
    GGMLQuantizationType.F16: np.dtype("<f2"),
    GGMLQuantizationType.F64: np.dtype("<f8"),
    GGMLQuantizationType.I8: np.dtype("<i1"),
    GGMLQuantizationType.I16: np.dtype("<i2"),
    GGMLQuantizationType.I32: np.dtype("<i4"),
    GGMLQuantizationType.I64: np.dtype("<i8"),
}


class RawTensor(NamedTuple):
    """Bytes as stored: an array of plain numbers, or of quantized rows (uint8, one row a row)."""

    data: NDArray[np.generic]
    type: GGMLQuantizationType


class GgufFile:
    """An open GGUF; the memory map lives as long as it, or any array that `raw` gave out.

    Safe to read from several threads.
    """

    def __init__(self, path: str | Path) -> None:
        """Map the file and read its header; raises ModelFileError and Unsupported, naming the file."""
        self.path = Path(path)
        try:
            self._bytes = map_file(self.path)
            self.header = parse_header(self._bytes.data)
            self.spec: ModelSpec = spec_from_header(
                self.header, self.path, self._bytes.size, _digest(self._bytes, self.header)
            )
        except (ModelFileError, Unsupported) as error:
            raise type(error)(f"{path}: {error}") from error
        self._stored = {tensor.name: tensor for tensor in self.header.tensors}
        self._layout = CANONICAL.get(self.spec.architecture, Layout())

    def raw(self, name: str) -> RawTensor:
        """The tensor of that canonical name as stored, not un-permuted; a view into the file."""
        return self.stored(self._info(name).stored_name)

    def stored(self, stored_name: str) -> RawTensor:
        """The tensor of that name in the file; a view into it."""
        tensor = self._stored[stored_name]
        data = self._bytes[tensor.offset : tensor.offset + tensor.n_bytes]
        if tensor.type in PLAIN_TYPES:
            return RawTensor(data.view(PLAIN_TYPES[tensor.type]).reshape(tensor.shape), tensor.type)
        return RawTensor(
            data.reshape(quant_shape_to_byte_shape(tensor.shape, tensor.type)), tensor.type
        )

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The tensor as float32, in the canonical shape and order; raises Unsupported for its type."""
        info = self._info(name)
        values = self._dequantize(*self.stored(info.stored_name))
        if self._layout.norm_plus_one and name.endswith("norm.weight"):
            return values - np.float32(1)
        n_heads = self.interleaved_heads(name)
        return values if n_heads is None else to_halves(values, n_heads)

    def rows(self, name: str, indices: NDArray[np.int32]) -> NDArray[np.float32]:
        """Rows of a matrix as float32 [n, in], as stored (no un-permuting): the look-up of embeddings."""
        data, kind = self.raw(name)
        return self._dequantize(data[indices], kind)

    def _info(self, name: str) -> TensorInfo:
        try:
            return self.spec.tensors[name]
        except KeyError:
            raise ModelFileError(f"{self.path}: there is no tensor {name}") from None

    def _dequantize(
        self, data: NDArray[np.generic], kind: GGMLQuantizationType
    ) -> NDArray[np.float32]:
        if kind in PLAIN_TYPES:
            return data.astype(np.float32)
        try:
            return np.asarray(dequantize(data, kind), np.float32)
        except NotImplementedError:
            raise Unsupported(f"{self.path}: no reader for tensors of type {kind.name}") from None

    def interleaved_heads(self, name: str) -> int | None:
        """The heads of a tensor whose rows lie in interleaved order; None for all others."""
        if not self._layout.interleaved_rope:
            return None
        if ".self_attn.q_proj." in name:
            return self.spec.n_heads
        if ".self_attn.k_proj." in name:
            return self.spec.n_kv_heads
        return None


def to_halves(values: NDArray[T], n_heads: int) -> NDArray[T]:
    """Rows from interleaved pairs (llama.cpp) to rotate-half order (Hugging Face); [out, ...]."""
    if values.shape[0] % (2 * n_heads):
        raise ModelFileError(f"{values.shape[0]} rows are no {n_heads} heads of pairs")
    pairs = values.reshape(n_heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def map_file(path: Path) -> NDArray[np.uint8]:
    """The whole file as bytes; raises ModelFileError."""
    try:
        if path.is_dir():
            raise ModelFileError("it is a directory")
        if path.stat().st_size == 0:
            raise ModelFileError("the file is empty")
        return np.asarray(np.memmap(path, np.uint8, "r"))
    except FileNotFoundError:
        raise ModelFileError("there is no such file") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"it cannot be read: {error}") from error


def _digest(data: NDArray[np.uint8], header: Header) -> str:
    """A name for these weights: SHA-256 over the size, the whole header and samples of every tensor.

    Reading all of a large file would take longer than loading it, so of each tensor 64 KiB go in, in
    four pieces from beginning to end. Another model, quantization or training gives another digest; a
    flipped bit between the samples does not. Checking a file's integrity is another task.
    """
    digest = hashlib.sha256()
    digest.update(data.size.to_bytes(8, "little"))
    digest.update(data[: header.data_offset].data)
    for tensor in header.tensors:
        for start, stop in _sample(tensor):
            digest.update(data[start:stop].data)
    return digest.hexdigest()


def _sample(tensor: StoredTensor) -> list[tuple[int, int]]:
    """Ranges of the file, spread evenly over the tensor, its first and last bytes among them."""
    if tensor.n_bytes <= SAMPLE_BYTES:
        return [(tensor.offset, tensor.offset + tensor.n_bytes)]
    piece = SAMPLE_BYTES // SAMPLE_PIECES
    room = tensor.n_bytes - piece
    starts = [tensor.offset + room * i // (SAMPLE_PIECES - 1) for i in range(SAMPLE_PIECES)]
    return [(start, start + piece) for start in starts]
