"""What a user types in a chat: lines in, something said or a command out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

END_OF_MULTI = "/end"


@dataclass(frozen=True, slots=True)
class Said:
    """Something for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """Something for the chat itself; the name is without its slash."""

    name: str
    argument: str


ReadLine = Callable[[bool], str]
"""Reads one line; the argument says whether it goes on an entry. Raises EOFError at the end."""


def read_entry(read_line: ReadLine) -> Said | Command | None:
    """One entry, over as many lines as it takes; None for an empty one. Raises EOFError."""
    line = read_line(False)
    if line.strip() == "/multi":
        return _said(_read_block(read_line))
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        try:
            lines.append(read_line(True))
        except EOFError:
            break  # what was typed still counts
    return parse_entry("\n".join(lines))


def parse_entry(text: str) -> Said | Command | None:
    """A command begins with one slash; two slashes stand for a text that begins with one."""
    text = text.strip()
    if text.startswith("//"):
        return Said(text[1:])
    if text.startswith("/"):
        name, _, argument = text[1:].partition(" ")
        return Command(name, argument.strip())
    return _said(text)


def _read_block(read_line: ReadLine) -> str:
    lines: list[str] = []
    while True:
        try:
            line = read_line(True)
        except EOFError:
            break
        if line.strip() == END_OF_MULTI:
            break
        lines.append(line)
    return "\n".join(lines)


def _said(text: str) -> Said | None:
    return Said(text) if text.strip() else None
