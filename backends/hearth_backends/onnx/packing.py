"""Packed weights: a graph's initializers, made once and kept in a file that is mapped afterwards.

The file begins with eight bytes, the length of a JSON header; the header names each initializer with
type, shape and place; their data follow, each on a multiple of 64 bytes. Its name is a fingerprint of
all that goes into it, so a file is never out of date, only unused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hearth_backends.errors import ModelFileError, OutOfMemory
from hearth_backends.onnx import shelf
from hearth_backends.onnx.graph import Bundle, Place
from hearth_backends.weights.reader import TensorReader

log = logging.getLogger(__name__)

LAYOUT = 1
"""Goes up when quantizers or graphs begin to make other bytes under the same names."""
SMALL_BYTES = 64 << 20
"""Up to here weights are made in memory at every load: that is as fast as a file."""
_ALIGNMENT = 64
_LENGTH = struct.Struct("<Q")

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Packed:
    """Initializers: as arrays, or as places in a file, which ONNX Runtime maps itself."""

    arrays: Mapping[str, NDArray[Any]]
    places: Mapping[str, Place]
    folder: Path | None = None
    held: BinaryIO | None = None  # the file, locked against deletion while it is open

    def close(self) -> None:
        """Let others delete the file; idempotent."""
        if self.held is not None:
            self.held.close()


def pack(
    bundles: Sequence[Bundle],
    reader: TensorReader,
    folder: Path | None,
    fingerprint: str,
    progress: Progress,
) -> Packed:
    """The initializers by name: from the file in `folder`, which is written first where it is not there.

    Small ones, and all where there is no folder, are made in memory. Raises OutOfMemory when memory or
    disk are full (what was written is deleted), and what the reader raises.
    """
    lasting = [bundle for bundle in bundles if bundle.is_lasting]
    if folder is None or sum(bundle.n_bytes for bundle in lasting) <= SMALL_BYTES:
        return Packed(dict(_made(bundles, reader, progress)), {})
    passing = [bundle for bundle in bundles if not bundle.is_lasting]
    layout = _Layout(lasting)
    path = folder / f"{_name(layout, fingerprint)}{shelf.ENDING}"
    held = _held(path, layout)
    while held is None:
        shelf.make_room(folder, layout.n_bytes, shelf.budget_bytes(os.environ))
        _write(path, layout, _made(lasting, reader, progress))
        held = _held(path, layout)  # none where another process had to make room at once
    places = {name: Place(path.name, layout.begin + at) for name, at in layout.offsets.items()}
    return Packed(dict(_made(passing, reader, _silent)), places, folder, held)


def _held(path: Path, layout: _Layout) -> BinaryIO | None:
    """The file, where it is there and whole."""
    held = shelf.hold(path)
    if held is not None and not layout.is_whole(path):
        held.close()
        return None
    return held


def _silent(_fraction: float) -> None:
    """Nobody need hear of what takes no time."""


def default_folder(environ: Mapping[str, str]) -> Path:
    """Where packed weights are kept: HEARTH_CACHE, what systemd gives, or the user's cache."""
    for key in ("HEARTH_CACHE", "CACHE_DIRECTORY", "STATE_DIRECTORY"):
        if environ.get(key):
            return Path(environ[key]) / "onnx"
    home = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/")) / ".cache"
    return Path(home) / "hearth" / "onnx"


def _made(
    bundles: Sequence[Bundle], reader: TensorReader, progress: Progress
) -> Iterator[tuple[str, NDArray[Any]]]:
    total = max(1, sum(bundle.n_bytes for bundle in bundles))
    done = 0
    for bundle in bundles:
        try:
            arrays = bundle.make(reader)
        except MemoryError as error:
            raise OutOfMemory(f"no memory to pack {bundle.weights[0].name}") from error
        for weight, array in zip(bundle.weights, arrays, strict=True):
            if array.shape != weight.shape or array.dtype != weight.dtype:
                raise ModelFileError(
                    f"{weight.name} is {array.dtype} {array.shape}, not {weight.dtype} {weight.shape}"
                )
            yield weight.name, np.ascontiguousarray(array)
        done += bundle.n_bytes
        progress(done / total)


def _name(layout: _Layout, fingerprint: str) -> str:
    digest = hashlib.sha256(f"{LAYOUT} {fingerprint} ".encode())
    digest.update(layout.header)
    return digest.hexdigest()[:32]


class _Layout:
    """Where in the file each initializer is."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        places: dict[str, dict[str, Any]] = {}
        at = 0
        for weight in (weight for bundle in bundles for weight in bundle.weights):
            at = -(-at // _ALIGNMENT) * _ALIGNMENT
            places[weight.name] = {"dtype": weight.dtype.str, "shape": weight.shape, "at": at}
            at += weight.n_bytes
        self.offsets: dict[str, int] = {name: place["at"] for name, place in places.items()}
        header = json.dumps(places).encode()
        n_header = -(-(_LENGTH.size + len(header)) // _ALIGNMENT) * _ALIGNMENT - _LENGTH.size
        self.header = header.ljust(n_header)
        self.begin = _LENGTH.size + n_header
        self.n_bytes = self.begin + at

    def is_whole(self, path: Path) -> bool:
        """Whether the file is there and complete; a damaged one is told of."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                begin = file.read(self.begin)
        except OSError:
            return False  # writing it will say what is wrong
        if size == self.n_bytes and begin == _LENGTH.pack(len(self.header)) + self.header:
            return True
        log.warning("%s is packed anew: it has %d bytes, not %d", path, size, self.n_bytes)
        return False


def _write(path: Path, layout: _Layout, arrays: Iterator[tuple[str, NDArray[Any]]]) -> None:
    """Write beside, then rename: nobody sees half a file."""
    with writing(path, layout.n_bytes) as file:
        file.write(_LENGTH.pack(len(layout.header)) + layout.header)
        for name, array in arrays:
            file.seek(layout.begin + layout.offsets[name])
            file.write(array.data)
        file.truncate(layout.n_bytes)


@contextmanager
def writing(path: Path, n_bytes: int) -> Iterator[BinaryIO]:
    """A file that takes its name when all went well, and is gone when not."""
    partial = path.with_suffix(f".partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        _remove(partial)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfMemory(
                f"no room on disk to pack weights: {path} takes {n_bytes} bytes"
            ) from error
        raise ModelFileError(
            f"packed weights cannot be written to {path}: {error}; HEARTH_CACHE names another folder"
        ) from error
    except BaseException:
        _remove(partial)
        raise


def _remove(partial: Path) -> None:
    """Delete it where it was made; what went wrong before that is what is told."""
    with suppress(OSError):
        partial.unlink()
