"""Exchange: one end of what an engine and a stage's process say to each other.

A message is a small record over a socket; large arrays in it lie in memory that both have mapped, a
region for each direction. After a message with such arrays this end sends nothing until it has heard: what the
other one looks at would be overwritten.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any

_HEADER = struct.Struct("=II")  # bytes of the record, arrays in shared memory
_PLACE = struct.Struct("=QQ")  # of an array: where it begins, its bytes
_LEAST_SHARED = 4096
"""Bytes of an array from which on it is not sent but shared."""
_ALIGNMENT = 64
_RECEIVED_BYTES = 1 << 16


class PeerGone(Exception):
    """The other process has ended, or has closed its end."""


@dataclass(frozen=True, slots=True)
class Regions:
    """The memory of both directions, by its descriptors."""

    down: int  # from the engine to the stage
    up: int
    n_bytes: int  # of each

    @classmethod
    def create(cls, n_bytes: int) -> Regions:
        """Without a name, so that nothing is left of them however both processes end; raises OSError."""
        down = _memory("hearth-stage-down", n_bytes)
        try:
            return cls(down, _memory("hearth-stage-up", n_bytes), n_bytes)
        except BaseException:
            os.close(down)
            raise

    def close(self) -> None:
        """What is mapped stays mapped."""
        os.close(self.down)
        os.close(self.up)


def _memory(name: str, n_bytes: int) -> int:
    descriptor = os.memfd_create(name)
    try:
        os.truncate(descriptor, n_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class Exchange:
    """Sends and receives whole messages; owns its socket and its mappings. For one thread at a time.

    Messages are pickles: both ends are this program, and nobody else has the socket.
    """

    def __init__(
        self, connection: socket.socket, outgoing: int, incoming: int, n_bytes: int
    ) -> None:
        """`outgoing`, `incoming`: descriptors of the regions, which the caller may close."""
        self._socket = connection
        self._out = mmap.mmap(outgoing, n_bytes)
        self._out_view = memoryview(self._out)
        self._in_view = memoryview(mmap.mmap(incoming, n_bytes)).toreadonly()
        self._received = b""

    def send(self, message: object) -> None:
        """Raises PeerGone."""
        places: list[bytes] = []
        at = 0

        def share(buffer: pickle.PickleBuffer) -> bool:
            """Whether it is to be sent with the record instead."""
            nonlocal at
            raw = buffer.raw()
            if raw.nbytes < _LEAST_SHARED or at + raw.nbytes > len(self._out_view):
                return True
            self._out_view[at : at + raw.nbytes] = raw
            places.append(_PLACE.pack(at, raw.nbytes))
            at += -(-raw.nbytes // _ALIGNMENT) * _ALIGNMENT
            return False

        record = pickle.dumps(message, protocol=5, buffer_callback=share)
        try:
            self._socket.sendall(
                b"".join((_HEADER.pack(len(record), len(places)), *places, record))
            )
        except OSError as error:
            raise PeerGone(str(error)) from error

    def receive(self) -> Any:
        """The next message; its large arrays are views that hold until this end sends again. Raises PeerGone."""
        self._read(_HEADER.size)
        n_bytes, n_places = _HEADER.unpack_from(self._received)
        record_at = _HEADER.size + n_places * _PLACE.size
        self._read(record_at + n_bytes)
        data, self._received = self._received, b""
        if len(data) > record_at + n_bytes:
            self._received = data[record_at + n_bytes :]
        buffers = [
            self._in_view[at : at + size]
            for at, size in _PLACE.iter_unpack(data[_HEADER.size : record_at])
        ]
        record = memoryview(data)[record_at : record_at + n_bytes]
        return pickle.loads(record, buffers=buffers)  # noqa: S301  # of this program, see above

    def _read(self, n_bytes: int) -> None:
        """Have received so many bytes, or more."""
        while len(self._received) < n_bytes:
            try:
                part = self._socket.recv(max(_RECEIVED_BYTES, n_bytes - len(self._received)))
            except OSError as error:
                raise PeerGone(str(error)) from error
            if not part:
                raise PeerGone("it has closed its end")
            self._received += part

    def close(self) -> None:
        """Let go of the socket; the mappings go with the last array that looks at them."""
        self._socket.close()


def pass_regions(connection: socket.socket, regions: Regions) -> None:
    """Give the other process the regions; raises PeerGone."""
    try:
        socket.send_fds(
            connection, [struct.pack("=Q", regions.n_bytes)], [regions.down, regions.up]
        )
    except OSError as error:
        raise PeerGone(str(error)) from error


def take_regions(connection: socket.socket) -> Regions:
    """The regions that the engine gives; raises PeerGone."""
    data, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    if len(data) < 8 or len(descriptors) != 2:
        raise PeerGone("it has sent no memory")
    return Regions(descriptors[0], descriptors[1], struct.unpack("=Q", data)[0])
