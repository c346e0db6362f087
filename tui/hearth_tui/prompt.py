"""What a user asks: words of the command line, standard input, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from hearth_tui.errors import UsageError


def read_prompt(words: Sequence[str], stdin: TextIO | None) -> str:
    """The words, then a blank line and what is piped in; `-` alone stands for standard input.

    Blocks until standard input ends, where it is read. Raises UsageError for an empty prompt.
    """
    only_stdin = list(words) == ["-"]
    piped = ""
    if stdin is not None and (only_stdin or not stdin.isatty()):
        piped = _read(stdin)
    parts = ["" if only_stdin else " ".join(words), piped.rstrip("\r\n")]
    prompt = "\n\n".join(part for part in parts if part.strip())
    if not prompt:
        raise UsageError(
            "nothing was asked: give a PROMPT, or pipe one in (see 'hearth ask --help')"
        )
    return prompt


def _read(stdin: TextIO) -> str:
    try:
        return stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text (byte {error.start})") from None
