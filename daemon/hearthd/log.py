"""Log: one line for each record; JSON for machines, text for a terminal, the request's id in both."""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that the present task works for; `api.middleware` sets it."""

LogFormat = Literal["auto", "json", "text"]

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest came with `extra` and is shown."""


def set_up(level: str, format: LogFormat, stream: TextIO | None = None) -> None:  # noqa: A002
    """Send every record to a stream (stderr), in place of where they went before."""
    stream = stream or sys.stderr
    text = format == "text" or (format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
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
