"""A model's text on its way to a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from hearth_tui.printable import printable
from hearth_tui.wrap import WordWrap


class TextOutput:
    """Writes text as it comes; a terminal gets it cleaned and, if `columns` is given, wrapped at words.

    `before_first` is called once, before anything is written. Leaving the context ends the last line.
    """

    def __init__(
        self,
        stream: TextIO,
        columns: int | None = None,
        before_first: Callable[[], None] | None = None,
    ) -> None:
        self._stream = stream
        self._clean: Callable[[str], str] = printable if stream.isatty() else str
        self._wrap = None if columns is None else WordWrap(columns)
        self._before_first = before_first
        self._ends_line = True

    def write(self, text: str) -> None:
        """Show text at once."""
        text = self._clean(text)
        self._put(text if self._wrap is None else self._wrap.feed(text))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._wrap is not None:
            self._put(self._wrap.flush())
        echoed = kind is KeyboardInterrupt and self._stream.isatty()  # the terminal wrote ^C
        if echoed or not self._ends_line:
            self._put("\n")

    def _put(self, text: str) -> None:
        if text:
            if self._before_first is not None:
                self._before_first()
                self._before_first = None
            self._stream.write(text)
            self._stream.flush()
            self._ends_line = text.endswith("\n")
