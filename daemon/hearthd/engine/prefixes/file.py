"""SavedPrefix: what the stages exported of a prefix, and the file it is kept in.

A file is a magic number, the length of a header, the header in JSON, then tokens (int32), block hashes
and the stages' blobs. The header says what the rest belongs to, how long it is, and its checksum.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import msgspec

from hearth_backends.kv.contract import BLOCK_TOKENS

MAGIC = b"HPREFIX1"
_LENGTH = struct.Struct("<I")
_MOST_HEADER_BYTES = 1 << 16
_HASH_BYTES = 16


class BadFile(Exception):
    """The file is truncated, damaged, or not one of these; the message says what."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedPrefix:
    """Whole blocks of tokens, their chained hashes, and one blob for each stage."""

    tokens: array[int]  # int32
    hashes: tuple[bytes, ...]
    blobs: tuple[bytes, ...]

    @property
    def n_bytes(self) -> int:
        """In memory, about."""
        return sum(map(len, self.blobs)) + _TOKEN_BYTES * len(self.tokens)

    def begins(self, tokens: Sequence[int], n_tokens: int) -> bool:
        """Whether its first n_tokens are those of a sequence, token by token."""
        return self.tokens[:n_tokens] == array("i", tokens[:n_tokens])


_TOKEN_BYTES = 8
"""Of a token and its part of a hash."""


class Header(msgspec.Struct, frozen=True):
    """What a file holds."""

    fingerprint: str  # of model and configuration
    n_tokens: int
    blob_bytes: list[int]
    checksum: str  # BLAKE2b of all that follows the header

    @property
    def n_blocks(self) -> int:
        return self.n_tokens // BLOCK_TOKENS

    @property
    def body_bytes(self) -> int:
        """Of all that follows the header."""
        return 4 * self.n_tokens + _HASH_BYTES * self.n_blocks + sum(self.blob_bytes)


def write_prefix(file: BinaryIO, saved: SavedPrefix, fingerprint: str) -> None:
    """Raises OSError."""
    parts = [saved.tokens.tobytes(), b"".join(saved.hashes), *saved.blobs]
    header = msgspec.json.encode(
        Header(fingerprint, len(saved.tokens), [len(b) for b in saved.blobs], _checksum(parts))
    )
    file.write(MAGIC + _LENGTH.pack(len(header)) + header)
    file.writelines(parts)


def read_hashes(path: Path, fingerprint: str) -> tuple[bytes, ...]:
    """The block hashes of a file whose size is right; raises BadFile, OSError. Its blobs are not read."""
    with path.open("rb") as file:
        header = _read_header(file, path, fingerprint)
        file.seek(4 * header.n_tokens, 1)
        return _split(_read(file, _HASH_BYTES * header.n_blocks))


def read_prefix(path: Path, fingerprint: str) -> SavedPrefix:
    """The whole of a file, its checksum compared; raises BadFile, OSError."""
    with path.open("rb") as file:
        header = _read_header(file, path, fingerprint)
        sizes = [4 * header.n_tokens, _HASH_BYTES * header.n_blocks, *header.blob_bytes]
        parts = [_read(file, size) for size in sizes]
    if _checksum(parts) != header.checksum:
        raise BadFile("its checksum is wrong")
    tokens = array("i")
    tokens.frombytes(parts[0])
    return SavedPrefix(tokens, _split(parts[1]), tuple(parts[2:]))


def _read_header(file: BinaryIO, path: Path, fingerprint: str) -> Header:
    if file.read(len(MAGIC)) != MAGIC:
        raise BadFile("it is no saved prefix")
    (length,) = _LENGTH.unpack(_read(file, _LENGTH.size))
    if length > _MOST_HEADER_BYTES:
        raise BadFile("its header is too long")
    try:
        header = msgspec.json.decode(_read(file, length), type=Header)
    except msgspec.DecodeError as error:
        raise BadFile("its header cannot be read") from error
    if header.fingerprint != fingerprint:
        raise BadFile("it is of another model or configuration")
    if (
        header.n_tokens < BLOCK_TOKENS
        or header.n_tokens % BLOCK_TOKENS
        or min(header.blob_bytes, default=-1) < 0
    ):
        raise BadFile("its header makes no sense")
    if file.tell() + header.body_bytes != path.stat().st_size:
        raise BadFile("it is not as long as it should be")
    return header


def _read(file: BinaryIO, n_bytes: int) -> bytes:
    data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise BadFile("it is truncated")
    return data


def _split(hashes: bytes) -> tuple[bytes, ...]:
    return tuple(hashes[i : i + _HASH_BYTES] for i in range(0, len(hashes), _HASH_BYTES))


def _checksum(parts: Sequence[bytes]) -> str:
    hasher = blake2b(digest_size=16)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()
