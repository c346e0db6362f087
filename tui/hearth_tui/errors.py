"""Everything that `hearth` gives up on; only `cli` turns one into a line and an exit status.

ClientError                exit status
├── UsageError             2   the command line, or what it names, is wrong
├── BoxUnreachable         3   nothing answers at the address, or it went away half way
├── BoxUntrusted           1   something answers that is not known to be the box
├── BoxError               1   the box said no; status and code are the box's own
│   ├── NotHearth          1   something answers, but not in this API's shapes
│   └── AnswerBrokenOff    1   a stream ended before the answer did
└── NoModel                1   the box has no model that could answer
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells count it."""
EXIT_OUTPUT_GONE = 141
"""Whoever read the output has closed it, as shells count SIGPIPE."""


class ClientError(Exception):
    """A reason to stop, in words that fit one line."""

    exit_status: ClassVar[int] = 1


class UsageError(ClientError):
    """The command line, or a file or text that it names, cannot be used."""

    exit_status = 2


class BoxUnreachable(ClientError):
    """No box answers at the address, or the connection was lost."""

    exit_status = 3


class BoxUntrusted(ClientError):
    """The certificate at the address is not one that is believed; nothing was sent."""


class BoxError(ClientError):
    """The box refused or failed; `status` is HTTP's (None: said within a stream), `code` the box's."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class NotHearth(BoxError):
    """The answer has none of the shapes that a Hearth box answers in."""


class AnswerBrokenOff(BoxError):
    """The stream ended without a finish reason."""


class NoModel(ClientError):
    """None of the box's models can answer; the message says why."""
