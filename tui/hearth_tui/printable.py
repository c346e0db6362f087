"""Text of others, made harmless for a terminal."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Every control character but tab and line feed: escape sequences could do anything to a terminal."""


def printable(text: str) -> str:
    """The text without what a terminal would take as a command."""
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    """The text as one printable line."""
    return printable(" ".join(text.split()))
