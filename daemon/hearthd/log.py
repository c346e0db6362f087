"""Log: one line for each record; JSON for machines, text for a terminal, the request's id in both."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections import deque
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that the present task works for; `api.middleware` sets it."""

LogFormat = Literal["auto", "json", "text"]

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest came with `extra` and is shown."""


TAIL_LINES = 1000
_LINE_CHARACTERS = 2000


class Line(msgspec.Struct, frozen=True):
    """One record as it is kept for operators."""

    number: int  # since the start; without gaps
    time: float  # unix seconds
    level: str
    logger: str
    message: str  # with its fields; the beginning of it where it is very long


class Tail:
    """The latest lines of the log, in memory; any thread may add one."""

    def __init__(self, n_lines: int = TAIL_LINES) -> None:
        self._lines: deque[Line] = deque(maxlen=n_lines)
        self._numbers = itertools.count(1)

    def add(self, record: logging.LogRecord) -> None:
        """Keep a record in place of the oldest."""
        message = record.getMessage()
        for key, value in fields_of(record).items():
            message += f" {key}={value}"
        if record.exc_info and record.exc_info[1] is not None:
            message += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        level = record.levelname.lower()
        self._lines.append(
            Line(
                next(self._numbers), record.created, level, record.name, message[:_LINE_CHARACTERS]
            )
        )

    def after(self, number: int, limit: int) -> list[Line]:
        """Lines later than this one, the latest of them, oldest first."""
        lines = [line for line in list(self._lines) if line.number > number]
        return lines[-limit:] if limit else []


tail = Tail()
"""Of this process."""


class TailHandler(logging.Handler):
    """Keeps records; its own lock makes one of adding and numbering."""

    def __init__(self, kept: Tail) -> None:
        super().__init__()
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._kept.add(record)
        except (
            Exception
        ):  # as every handler of `logging`: a record that cannot be shown ends nothing
            self.handleError(record)


def set_up(level: str, format: LogFormat, stream: TextIO | None = None) -> None:  # noqa: A002  # as the configuration calls it
    """Send every record to a stream (stderr), in place of where they went before."""
    stream = stream or sys.stderr
    text = format == "text" or (format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler, TailHandler(tail)], force=True)
    logging.captureWarnings(True)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra`, and the request's id."""
    fields = {key: value for key, value in vars(record).items() if key not in _PLAIN}
    if "request_id" not in fields and (rid := request_id.get()) is not None:
        fields["request_id"] = rid
    return fields


class JsonFormatter(logging.Formatter):
    """{"time": RFC 3339 in UTC, "level", "logger", "message", fields, "exception"}."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """12:34:56.789 LEVEL logger: message key=value"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{record.msecs:03.0f} {record.levelname:<7} {record.name}: {record.getMessage()}"
        for key, value in fields_of(record).items():
            line += f" {key}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line
