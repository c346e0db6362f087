"""EngineLog: what an engine prints, line by line, into the daemon's log; the last lines are kept."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

log = logging.getLogger("hearthd.engine")

MAX_LINE_BYTES = 8192
KEPT_LINES = 12
_LEVELS = logging.getLevelNamesMapping()
_OWN_PREFIX = "hearthd.engine"


def parse_line(line: str, before: int) -> tuple[int, str, str]:
    """Level, logger and message of "LEVEL logger message"; any other line continues the one `before`."""
    level, _, rest = line.partition(" ")
    name, _, message = rest.partition(" ")
    if level in _LEVELS and name:
        return _LEVELS[level], name, message
    return before, log.name, line


class EngineLog:
    """Reads one engine's output to its end."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._level = logging.INFO

    @property
    def last_words(self) -> str:
        """The last line that was printed, empty where there was none."""
        return self._last[-1] if self._last else ""

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Log every line until the stream ends; a line that is too long is cut in pieces."""
        rest = b""
        while data := await stream.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._write(line)
            while len(rest) > MAX_LINE_BYTES:
                self._write(rest[:MAX_LINE_BYTES])
                rest = rest[MAX_LINE_BYTES:]
        if rest:
            self._write(rest)

    def _write(self, raw: bytes) -> None:
        line = raw.decode("utf-8", errors="replace").rstrip()
        if not line:
            return
        self._last.append(line)
        self._level, name, message = parse_line(line, self._level)
        logging.getLogger(name).log(self._level, message, extra={"model": self._model})
