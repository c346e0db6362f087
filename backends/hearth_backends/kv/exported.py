"""Exported sequence states: a backend's bytes behind a tag that says what they belong to."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass, fields

from hearth_backends.errors import ForeignState

MAGIC = b"HKV1"
_LENGTHS = struct.Struct("<III")  # of the tag, of the state, CRC-32 of the state


@dataclass(frozen=True, slots=True)
class StateTag:
    """What a state belongs to; only a stage with the same tag may take it."""

    backend: str
    version: str
    digest: str
    first: int
    last: int
    kv_dtype: str
    n_tokens: int


_FIELDS = [field.name for field in fields(StateTag)]
_encode = json.JSONEncoder(sort_keys=True).encode


def pack_state(tag: StateTag, state: bytes | memoryview) -> bytes:
    """One blob; of bytes, where it is a view. Requests wait meanwhile: the state is copied once."""
    text = _encode({name: getattr(tag, name) for name in _FIELDS}).encode()
    lengths = _LENGTHS.pack(len(text), len(state), zlib.crc32(state))
    return b"".join([MAGIC, lengths, text, state])


def unpack_state(blob: bytes, expected: StateTag) -> tuple[int, bytes]:
    """Tokens and state; raises ForeignState for a blob that is damaged or another stage's.

    `expected.n_tokens` is not compared.
    """
    begin = len(MAGIC) + _LENGTHS.size
    if len(blob) < begin or not blob.startswith(MAGIC):
        raise ForeignState("not an exported state")
    n_text, n_state, crc = _LENGTHS.unpack_from(blob, len(MAGIC))
    if len(blob) != begin + n_text + n_state:
        raise ForeignState(
            f"an exported state of {len(blob)} bytes, where {begin + n_text + n_state} belong"
        )
    text, state = blob[begin : begin + n_text], blob[begin + n_text :]
    if zlib.crc32(state) != crc:
        raise ForeignState("an exported state that was damaged")
    try:
        tag = StateTag(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ForeignState("an exported state with a tag that cannot be read") from error
    wanted = asdict(expected)
    for field, found in asdict(tag).items():
        if field != "n_tokens" and found != wanted[field]:
            raise ForeignState(f"a state of another {field}: {found!r}, not {wanted[field]!r}")
    return tag.n_tokens, state
