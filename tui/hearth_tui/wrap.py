"""Text that arrives in pieces, broken at words; code is left as it is."""

from __future__ import annotations

import re

from rich.cells import cell_len

_FENCE = "```"
_WIDE = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
"""Scripts without spaces: a line may end after any of their characters."""
_PIECES = re.compile(rf"\n|[^\S\n]+|[{_WIDE}]|[^\s{_WIDE}]+")
_IS_WIDE = re.compile(f"[{_WIDE}]")


class WordWrap:
    """Breaks lines at `columns`; keeps a word back until it is whole, so nothing printed moves."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._column = 0
        self._word = ""  # not printed yet
        self._gap = ""  # white space before it, not printed yet
        self._in_code = False
        self._line_start = True

    def feed(self, text: str) -> str:
        """What may be printed now."""
        return "".join(self._piece(match.group()) for match in _PIECES.finditer(text))

    def flush(self) -> str:
        """What was kept back."""
        return self._end_word()

    def _piece(self, piece: str) -> str:
        if piece == "\n":
            shown = self._end_word() + "\n"
            self._column, self._gap, self._line_start = 0, "", True
            return shown
        if _IS_WIDE.match(piece):
            before = self._end_word()
            self._word = piece
            return before + self._end_word()
        if not piece.isspace():
            self._word += piece
            return ""
        shown = self._end_word()
        self._gap += piece
        return shown

    def _end_word(self) -> str:
        if not self._word:
            return ""
        if self._line_start and self._word.startswith(_FENCE):
            self._in_code = not self._in_code
        shown = self._gap + self._word
        width = cell_len(shown)
        if not self._in_code and self._column and self._column + width > self._columns:
            shown = "\n" + self._word
            width = cell_len(self._word)
            self._column = 0
        self._column += width
        self._word, self._gap, self._line_start = "", "", False
        return shown
