"""What a chat reads from and writes to: a terminal with colours, or a pair of pipes."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from hearth_tui.errors import UsageError
from hearth_tui.output import TextOutput
from hearth_tui.printable import one_line
from hearth_tui.tables import make_console

_PROMPT = "> "
_PROMPT_MORE = "… "
_MARGIN_COLUMNS = 1
_MAX_COLUMNS = 100
"""Longer lines are hard to read."""


class Screen(ABC):
    """The outside of a chat."""

    interactive: bool

    @abstractmethod
    def read_line(self, more: bool) -> str:
        """One line without its end; raises EOFError, and KeyboardInterrupt at a terminal."""

    @abstractmethod
    def notice(self, text: str) -> None:
        """Something about the chat."""

    @abstractmethod
    def problem(self, text: str) -> None:
        """Something that went wrong."""

    @abstractmethod
    def show(self, renderable: Any) -> None:
        """Something asked for: a table, a help text."""

    @abstractmethod
    def answering(self, waiting_for: str) -> Any:
        """A context in which an answer comes; gives the TextOutput to write it to."""


class PipeScreen(Screen):
    """Each line of standard input is an entry; standard output gets the answers and nothing else."""

    interactive = False

    def read_line(self, more: bool) -> str:
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8 text") from None
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")

    def notice(self, text: str) -> None:
        print(text, file=sys.stderr)

    def problem(self, text: str) -> None:
        print(f"hearth: {one_line(text)}", file=sys.stderr)

    def show(self, renderable: Any) -> None:
        make_console().print(renderable)

    @contextmanager
    def answering(self, waiting_for: str) -> Iterator[TextOutput]:
        with TextOutput(sys.stdout) as output:
            yield output


class TerminalScreen(Screen):
    """Line editing and recall by readline, a spinner until the first word, text wrapped at words."""

    interactive = True

    def __init__(self, completions: Sequence[str]) -> None:
        self._console: Console = make_console()
        _edit_lines(completions)

    def read_line(self, more: bool) -> str:
        if not more:
            self._console.print()
        prompt = _PROMPT_MORE if more else _PROMPT
        try:
            # readline must know which characters take no room, or it misplaces the cursor.
            return input(f"\001\033[1;36m\002{prompt}\001\033[0m\002")
        except (EOFError, KeyboardInterrupt):
            self._console.print()  # the cursor still stands behind the prompt
            raise
        except UnicodeDecodeError:
            raise UsageError("what was typed is not UTF-8 text") from None

    def notice(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def problem(self, text: str) -> None:
        self._console.print(Text(one_line(text), style="red"))

    def show(self, renderable: Any) -> None:
        self._console.print(renderable)

    @contextmanager
    def answering(self, waiting_for: str) -> Iterator[TextOutput]:
        columns = min(self._console.width - _MARGIN_COLUMNS, _MAX_COLUMNS)
        spinner = self._console.status(Text(waiting_for, style="dim"))
        # Made before the spinner starts: while it turns, rich puts itself before sys.stdout.
        output = TextOutput(sys.stdout, columns, before_first=spinner.stop)
        with spinner, output:
            yield output


def make_screen(completions: Sequence[str]) -> Screen:
    """A terminal's screen where both ends are one."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return TerminalScreen(completions)
    return PipeScreen()


def _edit_lines(completions: Sequence[str]) -> None:
    try:
        import readline
    except ImportError:  # some builds of Python lack it; the terminal's own editing remains
        return

    def complete(typed: str, number: int) -> str | None:
        matches = [word for word in completions if word.startswith(typed)] if typed else []
        return matches[number] if number < len(matches) else None

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
