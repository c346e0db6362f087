"""Recording: an answer step by step, as it was streamed; and its bytes, which tell when they are damaged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from hearthd import wire

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Step: TypeAlias = Sequence[tuple[int, wire.Delta]]
"""What arrived together: the index of a choice, and what it gained."""

_OPTIONS: Final = {
    int(zstd.CompressionParameter.compression_level): 3,
    int(zstd.CompressionParameter.checksum_flag): 1,
}
_MOST_BYTES: Final = 256 * 1024 * 1024  # of an answer, unpacked

_encoder = msgspec.msgpack.Encoder()


class BadRecording(Exception):
    """The bytes are not those that were written."""


class Recording(msgspec.Struct, frozen=True, array_like=True):
    """A whole answer; every choice has its end."""

    key: bytes  # of its fingerprint: an entry in a wrong place is none
    id: str  # that the client was told
    created: int  # unix seconds
    steps: list[list[tuple[int, wire.Delta]]]

    @property
    def n_prompt(self) -> int:
        """Tokens of the first choice's prompt."""
        return next((d.usage.n_prompt for _, d in self._ends if d.usage is not None), 0)

    @property
    def n_output(self) -> int:
        """Tokens of all choices."""
        return sum(d.usage.n_output for _, d in self._ends if d.usage is not None)

    @property
    def _ends(self) -> list[tuple[int, wire.Delta]]:
        return [piece for step in self.steps for piece in step if piece[1].finish is not None]


_decoder = msgspec.msgpack.Decoder(Recording)


def is_whole(steps: Sequence[Step], n_choices: int) -> bool:
    """Whether every choice came to an end that is an answer. Pure."""
    ends = {
        choice for step in steps for choice, delta in step if delta.finish in ("stop", "length")
    }
    return len(ends) == n_choices


def pack(recording: Recording) -> bytes:
    """Bytes for the disk. Takes as long as the answer is big."""
    return zstd.compress(_encoder.encode(recording), options=_OPTIONS)


def unpack(data: bytes, key: bytes) -> Recording:
    """The recording; raises BadRecording. Takes as long as the answer is big."""
    try:
        if (zstd.get_frame_info(data).decompressed_size or 0) > _MOST_BYTES:
            raise BadRecording("too large to be an answer")
        recording = _decoder.decode(zstd.decompress(data))
    except (zstd.ZstdError, msgspec.MsgspecError, ValueError) as error:
        raise BadRecording(str(error)) from error
    if recording.key != key:
        raise BadRecording("the answer to another request")
    return recording


def as_recorded(steps: Sequence[Step]) -> list[list[tuple[int, wire.Delta]]]:
    """Steps without the moments and numbers of the run that made them. Pure."""
    return [
        [
            (choice, msgspec.structs.replace(delta, rid=0, started_seconds=None))
            for choice, delta in step
        ]
        for step in steps
    ]


def replayed(steps: Sequence[Step]) -> list[list[tuple[int, wire.Delta]]]:
    """Steps as a hit tells them: no token of the prompt had to be computed. Pure."""
    return [[(choice, _as_cached(delta)) for choice, delta in step] for step in steps]


def _as_cached(delta: wire.Delta) -> wire.Delta:
    usage = delta.usage
    if usage is None or usage.n_cached == usage.n_prompt:
        return delta
    return msgspec.structs.replace(
        delta, usage=msgspec.structs.replace(usage, n_cached=usage.n_prompt)
    )
