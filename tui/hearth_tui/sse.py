"""Server-sent events: bytes in, the data of whole events out."""

from __future__ import annotations

from collections.abc import Iterator


class EventBuffer:
    """Collects bytes into events; lines end in LF or CRLF, and only in those.

    Other line separators of Unicode may stand raw in JSON, so text is never split at them.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Add bytes and yield the data of each event that is complete."""
        self._rest += received
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(bytes(line[5:].removeprefix(b" ")))
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data.clear()
