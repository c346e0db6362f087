"""Shards: safetensors files whose headers are written first and whose tensors follow as they are made."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARD_BYTES = 4 << 30
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "F8_E4M3": 1}
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file, before it is made."""

    name: str
    dtype: str  # as safetensors calls it
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of a tensor's bytes, in the order of the file."""

    name: str
    data: NDArray[Any]


def split(entries: Sequence[Entry], shard_bytes: int = SHARD_BYTES) -> list[list[Entry]]:
    """Neighbours together, up to a size; a larger tensor has a shard of its own; pure."""
    shards: list[list[Entry]] = []
    room = 0
    for entry in entries:
        if not shards or entry.n_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(entry)
        room -= entry.n_bytes
    return shards


def write_shards(
    folder: Path, entries: Sequence[Entry], pieces: Iterable[Piece], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the files, and the index where there are several; pieces come in the order of the entries.

    Raises OSError, and ValueError for a tensor that has not the bytes it was said to have.
    """
    shards = split(entries, shard_bytes)
    names = [_name(i, len(shards)) for i in range(len(shards))]
    coming = _Coming(pieces)
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard, coming)
    if len(shards) > 1:
        where = {e.name: name for name, shard in zip(names, shards, strict=True) for e in shard}
        total = sum(entry.n_bytes for entry in entries)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _name(i: int, n: int) -> str:
    return "model.safetensors" if n == 1 else f"model-{i + 1:05}-of-{n:05}.safetensors"


class _Coming:
    """Pieces, with the next one to be looked at before it is taken."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)
        self._next = next(self._pieces, None)

    def of(self, name: str) -> Iterator[NDArray[Any]]:
        """The pieces of one tensor."""
        while self._next is not None and self._next.name == name:
            yield self._next.data
            self._next = next(self._pieces, None)


def _write(path: Path, entries: Sequence[Entry], coming: _Coming) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        place = [at, at + entry.n_bytes]
        header[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": place}
        at += entry.n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(text)) + text)
        for entry in entries:
            n_bytes = sum(
                file.write(np.ascontiguousarray(data).data) for data in coming.of(entry.name)
            )
            if n_bytes != entry.n_bytes:
                raise ValueError(f"{entry.name} has {n_bytes} bytes, not {entry.n_bytes}")
        file.flush()
        os.fsync(file.fileno())
